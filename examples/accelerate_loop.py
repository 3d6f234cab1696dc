"""A classifier that learns from a frozen teacher, in a loop of Hugging Face Accelerate.

pip install accelerate
accelerate launch examples/accelerate_loop.py    # any number of devices, any mixed precision
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from parts import digits, small_teacher, trunk
from torch import nn
from torch.utils.data import DataLoader

from gan_vkd.distill import Distiller, Layer, Reader


def main(epochs: int = 5, **options: object) -> tuple[nn.Module, list[float]]:
    """Trains a student; returns it and the distillation loss of each step.

    Args:
        epochs: passes over the data.
        options: of the Accelerator.
    """
    accelerator = Accelerator(**options)
    set_seed(0)
    student = nn.Sequential(trunk(16), nn.Linear(16, 10))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    loader = DataLoader(digits(), 64, shuffle=True, drop_last=True)

    vkd = Distiller(small_teacher(), 16, scaling="batch", normalization="layer_norm")
    vkd.join(optimizer)  # which trains the projection, and retracts it after each step
    reader = Reader(student, [Layer("0")])

    student, vkd, optimizer, loader = accelerator.prepare(student, vkd, optimizer, loader)
    losses = []
    for _ in range(epochs):
        for images, labels in loader:
            with reader:
                logits = student(images)
            distillation = vkd(*reader.take(), images)
            accelerator.backward(F.cross_entropy(logits, labels) + distillation)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(distillation.item())
    return accelerator.unwrap_model(student), losses


if __name__ == "__main__":
    student, losses = main()
    first, last = sum(losses[:20]) / 20, sum(losses[-20:]) / 20
    print(f"distillation loss: {first:.3f} at first, {last:.3f} at the end")

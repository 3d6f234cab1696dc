"""A classifier that learns from a frozen teacher, as a LightningModule.

pip install lightning
python examples/lightning_module.py
"""

import lightning as L
import torch
import torch.nn.functional as F
from parts import digits, small_teacher, trunk
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gan_vkd.distill import Distiller, Layer, Reader, Teacher


class Student(L.LightningModule):
    """A narrow network; its features (B, 16) are projected to the teacher's (B, 64)."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.network = nn.Sequential(trunk(16), nn.Linear(16, 10))
        self.vkd = Distiller(teacher, 16, scaling="batch", normalization="layer_norm")
        self.reader = Reader(self.network, [Layer("0")])

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images, labels = batch
        with self.reader:
            logits = self.network(images)
        distillation = self.vkd(*self.reader.take(), images)
        self.log("distillation", distillation)
        return F.cross_entropy(logits, labels) + distillation

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.vkd.join(optimizer)  # which trains the projection, and retracts it after each step
        return optimizer


def main(epochs: int = 5) -> Student:
    """Trains the student and returns it."""
    L.seed_everything(0)
    student = Student(small_teacher())
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="auto", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(student, DataLoader(digits(), 64, shuffle=True, drop_last=True))
    return student


if __name__ == "__main__":
    network = main().network.cpu()
    images, labels = digits().tensors
    print(f"training accuracy: {(network(images).argmax(1) == labels).float().mean():.1%}")

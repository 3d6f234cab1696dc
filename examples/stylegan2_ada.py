"""VkD in the discriminator of stylegan2-ada-pytorch (NVlabs): a subclass and one line.

In `training/loss.py`, after StyleGAN2Loss, with this file beside it and a teacher of yours:

    class VkDLoss(Distilled, StyleGAN2Loss):
        def __init__(self, device, **kwargs):
            super().__init__(device, **kwargs)
            self.distil_from(my_teacher(), width=512)  # channels of the discriminator at 4 x 4

In `train.py`, `class_name='training.loss.VkDLoss'` in `loss_kwargs`. In
`training/training_loop.py`, after the optimiser `opt` of each network is made:
`if name == "D": loss.vkd.join(opt)`.

`python examples/stylegan2_ada.py` applies it to a small network with the same interface.
"""

from typing import Any

from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from gan_vkd.distill import Distiller, Layer, Reader, Teacher


class Distilled:
    """Stands before StyleGAN2Loss among the bases of a loss."""

    def distil_from(self: Any, teacher: Teacher, width: int, weight: float = 1.0) -> None:
        network = getattr(self.D, "module", self.D)  # inside DistributedDataParallel
        epilogue, image = Layer("b4.out", before=True), Layer(rule="all", before=True)
        self.reader, self.weight = Reader(network, [epilogue, image]), weight
        self.vkd = Distiller(teacher, width, scaling="batch").to(self.device)
        self.vkd_loss = self.vkd
        if distributed.is_initialized():
            self.vkd_loss = DistributedDataParallel(self.vkd, broadcast_buffers=False)

    def accumulate_gradients(self: Any, phase: str, gain: float, **batch: Any) -> None:
        """Adds the gradients of the distillation on real images, as they are augmented.

        Without synchronisation, since the discriminator's own backward is synchronised afterwards.
        """
        if phase in ("Dmain", "Dboth"):
            with self.reader:
                self.run_D(batch["real_img"], batch["real_c"], sync=False)
            (self.vkd_loss(*self.reader.take()) * self.weight * gain).backward()
        super().accumulate_gradients(phase=phase, gain=gain, **batch)  # type: ignore[misc]


def main(steps: int = 60) -> list[float]:
    """Trains a small stand-in; returns the distillation loss on real images before and after."""
    import torch
    from parts import digits, small_teacher
    from stand_ins import StyleGAN2Loss, stylegan2_training_loop

    class VkDLoss(Distilled, StyleGAN2Loss):
        def __init__(self, device: str, **kwargs: Any) -> None:
            super().__init__(device, **kwargs)
            self.distil_from(teacher, width=32)

    teacher, found = small_teacher(), []
    for trained in (0, steps):
        torch.manual_seed(0)
        loss, images = stylegan2_training_loop(VkDLoss, trained), digits().tensors[0]
        with loss.reader:
            loss.D(images, None)
        found.append(loss.vkd(*loss.reader.take()).item())
    return found


if __name__ == "__main__":
    before, after = main()
    print(f"distillation loss on real images: {before:.3f} at first, {after:.3f} at the end")

"""A generator as an ONNX model, for use without torch.

Inputs: `z` (B, z_dim) float32; `truncation`, a float32 without dimensions, if it is StyleGAN2;
`labels` (B,) int64 if it is conditional. Output: `images` (B, C, H, W) float32 in [-1, 1].
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_vkd.networks import stylegan2
from gan_vkd.networks.interface import Generator
from gan_vkd.networks.onnx import to_onnx
from gan_vkd.networks.sampling import draw_inputs
from gan_vkd.networks.standing import normalize_by_batch

BATCHES = ((2, 1.0), (1, 0.7), (5, 0.0))  # compared with torch: sizes, and truncations


class _Model(nn.Module):
    """The inputs and outputs of the model; a generator without classes has no labels."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.generator(z, _known(labels, z)).clamp(-1, 1)


class _TruncatedModel(nn.Module):
    """The same with an input for the truncation; the noise is constant."""

    def __init__(self, generator: stylegan2.Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, truncation: Tensor, labels: Tensor | None = None) -> Tensor:
        mapping, synthesis = self.generator.mapping, self.generator.synthesis
        w = mapping.w_avg.lerp(mapping(z, _known(labels, z)), truncation)
        return synthesis(w[:, None].expand(-1, synthesis.styles, -1)).clamp(-1, 1)


def _known(labels: Tensor | None, z: Tensor) -> Tensor:
    return z.new_zeros(z.shape[0], dtype=torch.int64) if labels is None else labels


def generator_to_onnx(
    generator: Generator, facts: dict[str, Any], out: Path
) -> tuple[bytes, float]:
    """Exports a generator with the stored statistics of its batch norms, compared with torch.

    Args:
        generator: in eval mode, on the CPU.
        facts: of the generator; stored as metadata.
        out: the file that errors name.

    Returns:
        The model, and its largest difference from torch, in the range [-1, 1] of the images.

    Raises:
        VkdError: as in `to_onnx`.
    """
    normalize_by_batch(generator, False)
    model: nn.Module = _Model(generator)
    if isinstance(generator, stylegan2.Generator):
        model = _TruncatedModel(generator)
    batches = []
    for seed, (size, psi) in enumerate(BATCHES):
        latents, labels = draw_inputs(generator, facts["shares"], size, seed)
        batch = {"z": latents}
        if isinstance(model, _TruncatedModel):
            batch["truncation"] = torch.tensor(psi)
        if generator.classes:
            batch["labels"] = labels
        batches.append(batch)
    return to_onnx(model.eval(), batches, "images", {"facts": json.dumps(facts)}, out)

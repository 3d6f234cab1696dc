"""Deformable attention against loops: values and gradients in float64."""

import itertools

import torch
from torch import Tensor

from classification.detection.network.deformable import DeformableAttention, sample_and_sum

SIZES = [(5, 4), (3, 2)]


def slow(maps: list[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """Computes bilinear samples one by one; pixel centres are at (i + 1/2) / size."""
    b, q, heads, levels, points, _ = locations.shape
    channels = maps[0].shape[2]
    out = torch.zeros(b, q, heads, channels, dtype=locations.dtype)
    for i, j, h, level, p in itertools.product(*map(range, (b, q, heads, levels, points))):
        rows, columns = maps[level].shape[-2:]
        x = locations[i, j, h, level, p, 0] * columns - 0.5
        y = locations[i, j, h, level, p, 1] * rows - 0.5
        value = torch.zeros(channels, dtype=locations.dtype)
        left, top = int(x.detach().floor()), int(y.detach().floor())
        for column, row in itertools.product((left, left + 1), (top, top + 1)):
            if 0 <= column < columns and 0 <= row < rows:
                share = (1 - (x - column).abs()) * (1 - (y - row).abs())
                value = value + share * maps[level][i, h, :, row, column]
        out[i, j, h] = out[i, j, h] + weights[i, j, h, level, p] * value
    return out.flatten(2)


def drawn() -> tuple[list[Tensor], Tensor, Tensor]:
    torch.manual_seed(0)
    maps = [torch.randn(2, 2, 3, *size, dtype=torch.double) for size in SIZES]
    locations = torch.rand(2, 4, 2, 2, 3, 2, dtype=torch.double) * 1.4 - 0.2  # some outside
    weights = torch.rand(2, 4, 2, 2, 3, dtype=torch.double)
    return maps, locations, weights


def test_values_and_gradients_match_a_loop() -> None:
    inputs = drawn()
    flat = [*inputs[0], *inputs[1:]]
    for x in flat:
        x.requires_grad_()
    towards = torch.randn(2, 4, 6, dtype=torch.double)
    ours = sample_and_sum(*inputs)
    expected = slow(*inputs)
    torch.testing.assert_close(ours, expected)
    gradients = torch.autograd.grad((ours * towards).sum(), flat)
    references = torch.autograd.grad((expected * towards).sum(), flat)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_gradcheck() -> None:
    maps, locations, weights = drawn()
    inputs = [x.requires_grad_() for x in (*maps, locations, weights)]
    assert torch.autograd.gradcheck(lambda a, b, x, w: sample_and_sum([a, b], x, w), inputs)


def test_offsets_are_in_half_box_sizes_and_padding_is_zero() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(16, levels=2, heads=2, points=3).double()
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.1)
    torch.nn.init.normal_(attention.attention_weights.weight, std=0.1)
    queries = torch.randn(1, 4, 16, dtype=torch.double)
    boxes = torch.rand(1, 4, 2, 4, dtype=torch.double)
    maps = [torch.randn(1, 16, *size, dtype=torch.double) for size in SIZES]
    paddings = [torch.zeros(1, *size, dtype=torch.bool) for size in SIZES]
    paddings[0][..., 2:] = True
    values, locations, weights = [], torch.empty(1, 4, 2, 2, 3, 2).double(), []
    for level, padding in zip(maps, paddings, strict=True):
        x = attention.value_proj(level[0].flatten(1).T) * ~padding.flatten()[:, None]
        values.append(x.T.reshape(1, 2, 8, *level.shape[2:]))
    offsets = attention.sampling_offsets(queries).view(1, 4, 2, 2, 3, 2)
    for j, h, level, p, axis in itertools.product(range(4), *map(range, (2, 2, 3, 2))):
        centre, size = boxes[0, j, level, axis], boxes[0, j, level, 2 + axis]
        locations[0, j, h, level, p, axis] = (
            centre + offsets[0, j, h, level, p, axis] / 3 * size / 2
        )
    weights = attention.attention_weights(queries).view(1, 4, 2, 6).softmax(-1).view(1, 4, 2, 2, 3)
    expected = attention.output_proj(slow(values, locations, weights))
    torch.testing.assert_close(attention(queries, boxes, maps, paddings), expected)


def test_heads_start_with_offsets_in_different_directions() -> None:
    attention = DeformableAttention(32, levels=2, heads=8, points=4)
    offsets = attention.sampling_offsets(torch.randn(32)).view(8, 2, 4, 2)
    assert torch.allclose(offsets[0, :, 0], torch.tensor([1.0, 0.0]), atol=1e-6)
    assert torch.allclose(offsets[2, :, 3], torch.tensor([0.0, 4.0]), atol=1e-6)
    assert torch.allclose(offsets.abs().amax(-1)[:, :, 1], torch.tensor(2.0))

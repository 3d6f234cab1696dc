from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.distill import Layer, Reader, Teacher


class Tokens(nn.Module):
    """A convolution, four tokens with a class token before them, a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 5, 4, 4)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        tokens = self.norm(torch.cat([tokens.sum(1, keepdim=True), tokens], dim=1))
        return self.head(tokens[:, 0])


def build(**options: object) -> Teacher:
    torch.manual_seed(0)
    settings = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "probe": 8}
    return Teacher(Tokens(), **(settings | options))


def pool(features: Tensor, rule: str = "mean", **options: Any) -> Tensor:
    return Layer("", rule, **options).pool(features)


def test_pooling_rules_match_their_definitions() -> None:
    tokens, maps = torch.randn(2, 5, 3), torch.randn(2, 3, 4, 6)
    assert torch.equal(pool(maps), maps.flatten(2).mean(2))
    assert torch.equal(pool(maps, "sum"), maps.sum((2, 3)))
    turned = maps.permute(0, 2, 3, 1).contiguous()
    torch.testing.assert_close(pool(turned, channels_last=True), pool(maps))
    torch.testing.assert_close(pool(turned, "sum", channels_last=True), pool(maps, "sum"))
    assert torch.equal(pool(tokens), tokens.mean(1))
    assert torch.equal(pool(tokens, prefix=1), tokens[:, 1:].mean(1))
    assert torch.equal(pool(tokens, "sum", prefix=2), tokens[:, 2:].sum(1))
    assert torch.equal(pool(tokens, "first"), tokens[:, 0])
    assert torch.equal(pool(tokens[:, 0], "sum"), tokens[:, 0])
    for features, rule in ((maps, "first"), (torch.randn(2, 3, 4, 5, 6), "mean"), (maps, "max")):
        with pytest.raises(ValueError, match="cannot pool"):
            pool(features, rule)


@pytest.mark.parametrize("layer", ["patches", "norm", "head", ""])
def test_a_teacher_is_read_at_any_layer_after_its_preprocessing(layer: str) -> None:
    images = torch.rand(3, 3, 6, 6) * 2 - 1
    teacher = build(layers=[Layer(layer)], size=(8, 8))
    seen: dict[str, Tensor] = {}
    network = teacher.network
    network.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.update(out=o))
    resized = F.interpolate(
        (images + 1) / 2, (8, 8), mode="bicubic", align_corners=False, antialias=True
    )
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    network((resized - mean) / std)
    torch.testing.assert_close(teacher(images), pool(seen["out"]))
    assert teacher.width == {"patches": 5, "norm": 5, "head": 2, "": 2}[layer]


def test_nearest_enlargement_repeats_pixels() -> None:
    images, seen = torch.rand(3, 3, 4, 4) * 2 - 1, []
    teacher = build(size=(28, 28), enlarge="nearest", mean=(0.5,) * 3, std=(0.5,) * 3)
    teacher.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    teacher(images)
    squares = images.repeat_interleave(7, 2).repeat_interleave(7, 3)
    torch.testing.assert_close(seen, [squares])


def test_a_teacher_is_frozen_but_differentiable_in_the_images() -> None:
    teacher = build(layers=[Layer("norm", prefix=1)]).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    images = torch.zeros(2, 3, 8, 8, requires_grad=True)
    teacher(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.any()


def test_several_layers_are_read_in_one_forward() -> None:
    layers = [Layer("head"), Layer("norm", prefix=1), Layer("norm", "first"), Layer("patches")]
    teacher, images = build(layers=layers), torch.rand(3, 3, 8, 8) * 2 - 1
    together = teacher(images)
    assert teacher.widths == [2, 5, 5, 5]
    assert together.shape == (3, teacher.width) == (3, 17)
    apart = [build(layers=[layer])(images) for layer in layers]
    torch.testing.assert_close(together, torch.cat(apart, dim=1))


def test_a_reader_returns_each_forward_once() -> None:
    network = Tokens()
    reader = Reader(network, [Layer("patches")])
    with pytest.raises(ValueError, match="did not reach the layer 'patches'"):
        reader.take()
    images = torch.randn(2, 3, 8, 8)
    with reader:
        network(torch.zeros(1, 3, 8, 8))
        network(images)
    network(torch.zeros(1, 3, 8, 8))
    torch.testing.assert_close(reader.take(), [network.patches(images).mean((2, 3))])
    with pytest.raises(ValueError, match="did not reach"):
        reader.take()
    with pytest.raises(ValueError, match="no layer 'patch'; it has patches, norm, head"):
        Reader(network, [Layer("patch")])


def test_a_reader_keeps_neither_hooks_nor_outputs() -> None:
    """Neither after its forward nor after one that failed."""
    network = Tokens()
    reader = Reader(network, [Layer("patches"), Layer("norm", before=True)])
    hooks = lambda: [len(module._forward_hooks) for module in network.modules()]  # noqa: E731
    before = hooks()
    with reader:
        network(torch.zeros(1, 3, 8, 8))
    assert hooks() == before
    network.head = nn.Linear(4, 2)  # of another width
    with pytest.raises(RuntimeError, match="shapes"), reader:
        network(torch.zeros(1, 3, 8, 8))
    assert hooks() == before
    with pytest.raises(ValueError, match="did not reach"):
        reader.take()

"""RedNet and its involution against a transcription, published sizes and published names."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.networks.rednet import Involution, RedNet
from gan_vkd.runtime.errors import VkdError
from gan_vkd.teachers.frozen import load_recogniser
from gan_vkd.teachers.settings import NetworkSettings


def by_neighbourhoods(layer: Involution, x: Tensor) -> Tensor:
    """The published naive computation: neighbourhoods are copied, weighted and summed."""
    count, channels, size = len(x), x.shape[1], layer.size
    means = x if layer.stride == 1 else F.avg_pool2d(x, layer.stride)
    weights = layer.conv2(layer.conv1(means))
    height, width = weights.shape[2:]
    weights = weights.view(count, layer.groups, 1, size**2, height, width)
    copies = F.unfold(x, size, padding=(size - 1) // 2, stride=layer.stride)
    copies = copies.view(count, layer.groups, -1, size**2, height, width)
    return (weights * copies).sum(3).view(count, channels, height, width)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (7, 1), (7, 2)])
def test_an_involution_is_a_weighted_sum_over_each_neighbourhood(size: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = Involution(32, size, stride).double()
    x = torch.randn(2, 32, 8, 12, dtype=torch.float64, requires_grad=True)
    ours, theirs = layer(x), by_neighbourhoods(layer, x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    way = torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * way).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("depth", "millions"), [(26, 9.23), (38, 12.39), (50, 15.54), (101, 25.65)]
)
def test_rednets_have_the_published_number_of_parameters(depth: int, millions: float) -> None:
    """Table 2 of the paper, and the README of the published code."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in RedNet(depth).parameters())
    assert round(count / 1e6, 2) == millions


def published(network: RedNet, layout: str) -> dict[str, Any]:
    """The weights as the involution project stores them, or CiT's authors."""
    state = network.state_dict()
    if layout == "involution":
        named = {
            f"head.fc.{k[11:]}" if k.startswith("classifier.") else f"backbone.{k}": v
            for k, v in state.items()
        }
        return {"state_dict": named, "meta": {"epoch": 130}}
    named = {k if k.startswith("classifier.") else f"model.{k}": v for k, v in state.items()}
    return {"model": named}


@torch.no_grad()
@pytest.mark.parametrize("layout", ["involution", "cit"])
def test_published_rednets_are_teachers(layout: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = RedNet(26, 7).eval()
    torch.save(published(network, layout), tmp_path / "rednet.pth")
    settings = NetworkSettings(name="rednet26", weights=str(tmp_path / "rednet.pth"), size=64)
    teacher = load_recogniser(settings, 64, "cpu")
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    expected = network(((images + 1) / 2 - mean) / std)
    logits, features = teacher(images).split((7, 2048), dim=1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.classifier(features), expected, rtol=1e-4, atol=1e-4)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for state, fault in (
        ({"state_dict": {"backbone.a": torch.ones(1)}}, "not a RedNet with its classifier"),
        (published(RedNet(26, 3), "cit"), "weights of another network"),
    ):
        torch.save(state, tmp_path / "odd.pth")
        settings = NetworkSettings(name="rednet50", weights=str(tmp_path / "odd.pth"))
        with pytest.raises(VkdError, match=fault):
            load_recogniser(settings, 64, "cpu")

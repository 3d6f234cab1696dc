"""Batch norms that are folded into the convolutions before them."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from gan_vkd.distill import Layer, Reader, Teacher
from gan_vkd.distill.folding import fold_batch_norms
from gan_vkd.networks.cifar_resnet import CifarResNet

HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}


def with_statistics(network: nn.Module) -> nn.Module:
    """The network with random parameters and statistics in its batch norms."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 2)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.2)
    return network


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@torch.no_grad()
def in_float64(teacher: Teacher, images: Tensor) -> Tensor:
    """The teacher's features, computed in float64 behind its preprocessing."""
    given: list[Tensor] = []
    keep = teacher.network.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    teacher(images)
    keep.remove()
    exact = copy.deepcopy(teacher.network).double()
    with Reader(exact, teacher.reader.layers) as reader:
        exact(given[0].double())
    return torch.cat(reader.take(), 1)


def error(features: Tensor, exact: Tensor) -> float:
    return float((features - exact).norm() / exact.norm())


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224", ""])
def test_features_stay_and_all_batch_norms_go(name):
    network = timm.create_model(name, num_classes=0) if name else CifarResNet(20, 10)
    size = (224, 224) if "vit" in name else (64, 64)
    teacher = Teacher(with_statistics(network), **HALF, size=size)
    images, present = torch.rand(3, 3, 32, 32) * 2 - 1, norms(network)
    exact, before, state = in_float64(teacher, images), teacher(images), torch.get_rng_state()
    assert fold_batch_norms(teacher) == present
    assert torch.equal(torch.get_rng_state(), state)
    assert norms(teacher.network) == 0
    assert error(teacher(images), exact) < 1.5 * error(before, exact) + 1e-7
    assert error(in_float64(teacher, images), exact) < 1e-5
    assert not any(p.requires_grad for p in teacher.parameters())
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(teacher(images).square().sum(), images)
    assert gradient.norm() > 0


def test_maps_are_compared_as_well_as_vectors():
    layers = [Layer(), Layer("layer1", rule="all")]
    network = with_statistics(timm.create_model("resnet18", num_classes=0))
    teacher = Teacher(network, **HALF, size=(64, 64), layers=layers)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    before = teacher.read(images)
    assert fold_batch_norms(teacher) == 20
    for now, then in zip(teacher.read(images), before, strict=True):
        assert now.shape == then.shape
        assert error(now, then) < 1e-5


def test_layers_that_are_read_keep_their_names_and_values():
    network = with_statistics(timm.create_model("tf_efficientnet_lite0"))
    names = ["conv_stem", "blocks.1.0.bn1", "blocks.2", "conv_head"]
    layers = [*map(Layer, names), Layer("blocks.3.0.bn2", before=True)]
    teacher = Teacher(network, **HALF, size=(64, 64), layers=layers)
    images, present = torch.rand(3, 3, 32, 32) * 2 - 1, norms(network)
    exact, before = in_float64(teacher, images), teacher(images)
    assert fold_batch_norms(teacher) == present - 4
    assert error(teacher(images), exact) < 1.5 * error(before, exact) + 1e-7


class Odd(nn.Module):
    """Uses the output of its convolution twice, or calls its convolution twice."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.twice = twice
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (self.norm(self.conv(y)) if self.twice else self.norm(y) + y).mean((2, 3))


@pytest.mark.parametrize("twice", [True, False])
def test_a_network_that_folding_would_change_is_left_as_it_is(twice):
    teacher = Teacher(with_statistics(Odd(twice)), **HALF)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    before, state = teacher(images), copy.deepcopy(teacher.network.state_dict())
    assert fold_batch_norms(teacher) == 0
    assert torch.equal(teacher(images), before)
    assert teacher.network.state_dict().keys() == state.keys()

"""The networks have the published parameters and match the formulas of their papers."""

import json
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gan_vkd.networks.biggan import (
    Discriminator,
    DiscriminatorBlock,
    Generator,
    GeneratorBlock,
)
from gan_vkd.networks.cifar_resnet import CifarResNet
from gan_vkd.networks.layers import SNConv2d, SNEmbedding, SNLinear, SpectralNorm
from tests.real_data import SHARED, needs_shared


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def spread(network: nn.Module) -> nn.Module:
    """Perturbs all parameters, since zero gains and biases at initialisation would hide errors."""
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return network


# shapes


@pytest.mark.parametrize(
    ("classes", "generator", "discriminator"),
    [(10, 4_304_387, 4_207_361), (100, 4_580_867, 4_230_401)],
)
def test_parameter_counts_are_as_published(classes, generator, discriminator):
    assert size(Generator(32, 64, 128, classes)) == generator
    assert size(Discriminator(32, 64, classes)) == discriminator


@needs_shared
@pytest.mark.parametrize(("letter", "network"), [("G", Generator), ("D", Discriminator)])
def test_names_and_shapes_are_as_published(letter, network):
    reference = json.loads((SHARED / "reference" / f"biggan_cifar10_{letter}.json").read_text())
    assert {k: list(v.shape) for k, v in network().state_dict().items()} == reference


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize("classes", [0, 1, 5])
def test_networks_have_the_expected_shapes(resolution, classes):
    generator, discriminator = (
        Generator(resolution, 4, 16, classes),
        Discriminator(resolution, 4, classes),
    )
    labels = torch.arange(3) % max(classes, 1)
    images = generator(torch.randn(3, 16), labels)
    assert images.shape == (3, 3, resolution, resolution)
    assert images.abs().max() <= 1
    assert discriminator(images, labels).score.shape == (3,)
    assert discriminator.features(images).shape == (3, discriminator.linear.in_features)


def test_labels_have_an_effect_only_with_classes():
    images, zeros, ones = torch.randn(2, 3, 32, 32), torch.zeros(2).long(), torch.ones(2).long()
    z = torch.randn(2, 16)
    generator, discriminator = spread(Generator(32, 4, 16, 2)), spread(Discriminator(32, 4, 2))
    assert not torch.allclose(generator(z, zeros), generator(z, ones))
    discriminator.eval()
    assert not torch.allclose(discriminator(images, zeros)[0], discriminator(images, ones)[0])
    alone = spread(Discriminator(32, 4, 0)).eval()
    assert torch.equal(alone(images, zeros).score, alone(images, ones).score)
    assert not hasattr(alone, "embed")


# spectral norm


def normalised(network: nn.Module) -> Iterator[tuple[str, SpectralNorm]]:
    return ((name, m) for name, m in network.named_modules() if isinstance(m, SpectralNorm))


@pytest.mark.parametrize("make", [lambda: Generator(32, 4, 16, 3), lambda: Discriminator(32, 4, 3)])
def test_all_weights_but_the_gains_are_spectrally_normalised(make):
    network = make()
    layers = dict(normalised(network))
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert name in layers
    assert ("embed" in layers) == isinstance(network, Discriminator)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(SNConv2d, (3, 8)), (SNConv2d, (8, 3, 1)), (SNLinear, (7, 5)), (SNLinear, (6, 1)),
     (SNEmbedding, (4, 9))],
)  # fmt: skip
def test_the_largest_singular_value_becomes_one(kind, shape):
    layer = kind(*shape)
    assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2) != 1
    for _ in range(2000):
        weight = layer.normalized_weight()
    largest = torch.linalg.svdvals(weight.detach().double().flatten(1))[0]
    assert abs(largest - 1) < 1e-5
    exact = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
    assert torch.allclose(layer.sv0, exact, rtol=1e-5)


def test_spectral_norm_equals_that_of_torch():
    """Iterates, outputs and gradients equal torch's from the same initial vector."""
    ours, theirs = SNLinear(6, 4), nn.utils.spectral_norm(nn.Linear(6, 4), eps=1e-8)
    with torch.no_grad():
        theirs.weight_orig.copy_(ours.weight)
        theirs.bias.copy_(ours.bias)
        ours.u0.copy_(F.normalize(ours.u0))
        theirs.weight_u.copy_(ours.u0[0])
    x = torch.randn(5, 6)
    for _ in range(3):
        ours.zero_grad()
        theirs.zero_grad()
        a, b = ours(x), theirs(x)
        assert torch.allclose(a, b, atol=1e-6)
        a.square().sum().backward()
        b.square().sum().backward()
        assert torch.allclose(ours.weight.grad, theirs.weight_orig.grad, atol=1e-5)
        assert torch.allclose(ours.u0[0], theirs.weight_u, atol=1e-6)


def test_the_gradient_includes_the_singular_value():
    layer = SNLinear(6, 4).double()
    for _ in range(2000):
        layer.normalized_weight()
    layer.eval()
    # scaling the weight does not change the normalised weight: no gradient along it
    layer.normalized_weight().sin().sum().backward()
    assert layer.weight.grad.norm() > 0.01
    assert abs((layer.weight.grad * layer.weight).sum()) < 1e-12


@pytest.mark.parametrize("make", [lambda: Generator(32, 4, 16, 3), lambda: Discriminator(32, 4, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_buffers_change_in_training_mode_only(make, training):
    network = make()
    inputs = torch.randn(2, 16) if isinstance(network, Generator) else torch.randn(2, 3, 32, 32)
    before = {name: b.clone() for name, b in network.named_buffers()}
    network.train(training)(inputs, torch.tensor([0, 1]))
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name]) != training, name


def test_images_in_eval_mode_do_not_depend_on_the_batch():
    generator = spread(Generator(32, 4, 16, 3))
    z, labels = torch.randn(4, 16), torch.tensor([0, 1, 2, 0])
    for _ in range(5):
        generator(z, labels)
    generator.eval()
    together = generator(z, labels)
    alone = torch.cat([generator(z[i : i + 1], labels[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


# blocks, against their formulas


def plain(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, layer.normalized_weight(), layer.bias, padding=layer.kernel_size[0] // 2)


def test_the_generator_block_matches_its_formula():
    block = spread(GeneratorBlock(6, 4, 3)).eval()
    x, y = torch.randn(5, 6, 8, 8), torch.tensor([0, 1, 2, 0, 1])

    def batch_norm(bn: nn.Module, h: torch.Tensor) -> torch.Tensor:
        mean, var = (b[:, None, None] for b in (bn.stored_mean, bn.stored_var))
        gain, bias = (e.weight[y][:, :, None, None] for e in (bn.gain, bn.bias))
        return (h - mean) / (var + 1e-5).sqrt() * (1 + gain) + bias

    for bn in (block.bn1, block.bn2):
        bn.stored_mean.normal_()
        bn.stored_var.uniform_(0.5, 2)
    up = nn.Upsample(scale_factor=2, mode="nearest")
    h = plain(block.conv1, up(batch_norm(block.bn1, x).relu()))
    h = plain(block.conv2, batch_norm(block.bn2, h).relu())
    naive = h + plain(block.conv_sc, up(x))
    assert naive.shape == (5, 4, 16, 16)
    assert (block(x, y) - naive).abs().max() < 1e-5


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("downsample", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 6), (6, 6)])
def test_the_discriminator_block_matches_its_formula(first, downsample, inputs, outputs):
    block = spread(DiscriminatorBlock(inputs, outputs, first, downsample)).eval()
    x = torch.randn(5, inputs, 8, 8)
    h = plain(block.conv2, plain(block.conv1, x if first else x.relu()).relu())
    shortcut = x
    if downsample or inputs != outputs:
        shortcut = plain(block.conv_sc, x)
    naive = h + shortcut
    if downsample:
        naive = F.avg_pool2d(naive, 2)
    assert (block(x) - naive).abs().max() < 1e-5


# scores


@pytest.mark.parametrize("classes", [0, 3])
def test_the_score_is_computed_from_the_features(classes):
    network = spread(Discriminator(32, 4, classes)).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 2, 1, 0])
    score, features = network(images, labels)
    assert torch.equal(features, network.features(images))
    assert (features >= 0).all()
    expected = features @ network.linear.normalized_weight()[0] + network.linear.bias
    if classes:
        rows = network.embed.normalized_weight()[labels]
        expected = expected + torch.einsum("bd,bd->b", rows, features)
    assert torch.allclose(score, expected, atol=1e-5)


def test_features_are_summed_over_space():
    network = spread(Discriminator(32, 4, 0)).eval()
    images = torch.randn(2, 3, 32, 32)
    h = images
    for stage in network.blocks:
        h = stage[0](h)
    assert h.shape == (2, network.linear.in_features, 8, 8)
    expected = h.relu().mean((2, 3)) * 64
    assert torch.allclose(network.features(images), expected, rtol=1e-5, atol=1e-5)


# batch norm


def test_batch_norm_tracks_mean_and_variance():
    network = spread(Generator(32, 4, 16, 3)).train()
    bn, seen = network.output_layer[0], []
    bn.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    network(torch.randn(8, 16), torch.arange(8) % 3)
    x, y = seen[0]
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    assert torch.allclose(bn.stored_mean, 0.1 * mean, atol=1e-6)
    assert torch.allclose(bn.stored_var, 0.9 + 0.1 * var, rtol=1e-5)
    assert torch.allclose(y.mean((0, 2, 3)), bn.bias, atol=1e-5)
    assert torch.allclose(y.std((0, 2, 3)), bn.gain.abs(), rtol=1e-2)


# CIFAR ResNets


@pytest.mark.parametrize(
    ("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)]
)
def test_cifar_resnets_have_the_published_size(depth, parameters):
    # 0.27M, 0.46M, 0.66M and 0.85M in table 6 of He et al.
    network = CifarResNet(depth)
    assert size(network) == parameters
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules()) == depth
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("depth", [2, 9, 21, 0])
def test_invalid_depths_are_refused(depth):
    with pytest.raises(ValueError, match=rf"6n \+ 2, got {depth}"):
        CifarResNet(depth)


def test_option_a_shortcut_adds_no_parameters_and_pads_with_zeros():
    network = CifarResNet(8).eval()
    block = network.layer2[0]
    for parameter in block.bn2.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()

"""R3GAN's networks against a transcription of their definition and published sizes."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.data.shape import Shape
from gan_vkd.networks.interface import NETWORKS, Discriminator, Generator
from gan_vkd.networks.r3gan.architecture import widths_of
from gan_vkd.networks.r3gan.layers import GAIN, ResidualBlock

TINY = {"name": "r3gan", "channel_base": 256, "channel_max": 8, "group_width": 4, "z_dim": 6}
IMAGENET = {"channel_base": 98_304, "channel_max": 1536, "group_width": 32}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def square(side: int) -> Shape:
    return Shape(3, side, side)


def networks(side: int, classes: int, **options: Any) -> tuple[Generator, Discriminator]:
    """Networks whose parameters are all random, also those that start with zeros."""
    network = NETWORKS.make(TINY | options)
    pair = network.generator(square(side), classes), network.discriminator(square(side), classes)
    for part in pair:
        for parameter in part.parameters():
            nn.init.normal_(parameter, 0, 0.5 / math.sqrt(parameter[0].numel()))
    return pair


# a transcription, on parameters in the published order


def block(x: Tensor, parameters: Iterator[nn.Parameter]) -> Tensor:
    narrow, grouped, wide, bias1, bias2 = (next(parameters) for _ in range(5))
    h = torch.einsum("oi,bihw->bohw", narrow[:, :, 0, 0], x) + bias1[:, None, None]
    h = torch.where(h > 0, h, 0.2 * h)
    width = grouped.shape[1]
    parts = [
        F.conv2d(h[:, i : i + width], grouped[i : i + width], padding=1)
        for i in range(0, h.shape[1], width)
    ]
    h = torch.cat(parts, 1) + bias2[:, None, None]
    return x + torch.einsum("oi,bihw->bohw", wide[:, :, 0, 0], torch.where(h > 0, h, 0.2 * h))


def resampled(x: Tensor, up: bool) -> Tensor:
    """Each channel by [1, 3, 3, 1], with zeros outside of the image."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
    kernel = (taps[:, None] * taps)[None, None]
    flat = x.flatten(0, 1)[:, None]
    if up:
        y = F.conv_transpose2d(flat, 4 * kernel, stride=2, padding=1)
    else:
        y = F.conv2d(flat, kernel, stride=2, padding=1)
    return y.view(*x.shape[:2], *y.shape[2:])


def maybe_convolved(x: Tensor, outputs: int, parameters: Iterator[nn.Parameter]) -> Tensor:
    return F.conv2d(x, next(parameters)) if x.shape[1] != outputs else x


def generator_by_hand(network: Generator, z: Tensor, one_hot: Tensor, widths: list[int]) -> Tensor:
    every = list(network.parameters())
    if network.classes:
        z = torch.cat([z, one_hot @ every.pop()], 1)
    parameters = iter(every)
    basis, linear = next(parameters), next(parameters)
    x = torch.einsum("chw,bc->bchw", basis, z @ linear.T)
    for stage, width in enumerate(widths):
        if stage:
            x = resampled(maybe_convolved(x, width, parameters), up=True)
        for _ in range(2):
            x = block(x, parameters)
    return F.conv2d(x, next(parameters))


def score_by_hand(network: Discriminator, x: Tensor, one_hot: Tensor, widths: list[int]) -> Tensor:
    every = list(network.parameters())
    embed = every.pop() if network.classes else None
    parameters = iter(every)
    x = F.conv2d(x, next(parameters))
    for width in [*widths[-2::-1], None]:
        for _ in range(2):
            x = block(x, parameters)
        if width is not None:
            x = maybe_convolved(resampled(x, up=False), width, parameters)
    h = torch.einsum("bchw,cohw->bc", x, next(parameters)) @ next(parameters).T
    return h[:, 0] if embed is None else (h * (one_hot @ embed)).sum(1)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("classes", [0, 3])
def test_networks_agree_with_a_transcription(side: int, classes: int) -> None:
    generator, discriminator = (part.double() for part in networks(side, classes))
    widths = [8] * 4 + [4] * (side == 64)
    z, labels = torch.randn(4, 6, dtype=torch.float64), torch.arange(4) % max(classes, 1)
    one_hot = F.one_hot(labels, max(classes, 1)).double()
    images = generator(z, labels)
    torch.testing.assert_close(images, generator_by_hand(generator, z, one_hot, widths))
    found = discriminator(images, labels)
    torch.testing.assert_close(found.score, score_by_hand(discriminator, images, one_hot, widths))


# sizes


@pytest.mark.parametrize(
    ("side", "classes", "options", "published"),
    [  # counted in the published code
        (32, 10, {}, (20_781_952, 21_280_512)),  # CIFAR-10
        (64, 0, {}, (22_429_824, 22_381_440)),  # FFHQ-64
        (256, 0, {}, (23_057_952, 23_009_568)),  # FFHQ-256
        (32, 1000, IMAGENET, (82_914_304, 86_548_992)),  # ImageNet-32
        (64, 1000, IMAGENET, (103_570_432, 107_205_120)),  # ImageNet-64
    ],
)
def test_parameter_counts_are_those_published(
    side: int, classes: int, options: dict[str, int], published: tuple[int, int]
) -> None:
    network = NETWORKS.make({"name": "r3gan"} | options)
    with torch.device("meta"):
        pair = (
            network.generator(square(side), classes),
            network.discriminator(square(side), classes),
        )
    assert tuple(sum(p.numel() for p in part.parameters()) for part in pair) == published


def test_widths_are_those_published() -> None:
    ffhq = {4: 768, 8: 768, 16: 768, 32: 768, 64: 384, 128: 192, 256: 96}
    assert widths_of(square(256), 24_576, 768, 16) == ffhq
    assert widths_of(square(512), 24_576, 768, 16) == ffhq | {512: 48}
    assert widths_of(square(64), 98_304, 1536, 32) == dict.fromkeys((4, 8, 16, 32, 64), 1536)
    assert widths_of(Shape(3, 64, 128), 24_576, 768, 16)[64] == 192  # by the longer side
    assert widths_of(32, 300, 20, 8) == {4: 16, 8: 16, 16: 16, 32: 8}


@pytest.mark.parametrize("side", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("classes", [0, 3])
def test_networks_have_the_expected_shapes(side: int, classes: int) -> None:
    generator, discriminator = networks(side, classes)
    labels = torch.arange(2) % max(classes, 1)
    images = generator(generator.latents(2), labels)
    assert images.shape == (2, 3, side, side)
    found = discriminator(images, labels)
    assert found.score.shape == (2,)
    assert found.features.shape == (2, discriminator.width) == (2, 8)


# initialisation


def test_a_block_is_the_identity_at_first() -> None:
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(ResidualBlock(16, 2, 8, depth=4)(x), x)


def test_weights_are_drawn_with_the_published_deviations() -> None:
    network = NETWORKS.make("r3gan")
    generator, discriminator = (
        make(square(32), 10) for make in (network.generator, network.discriminator)
    )
    inner = GAIN * 8**-0.25  # of eight blocks
    expected = {
        generator.b4[0].basis: 1,
        generator.b4[0].linear.weight: 128**-0.5,  # latent and class
        generator.embed.weight: 10**-0.5,
        generator.b8[1].conv1.weight: inner * 768**-0.5,
        generator.b8[1].conv2.weight: inner * 144**-0.5,
        generator.b8[1].conv3.weight: 0,
        generator.to_rgb.weight: 768**-0.5,
        discriminator.from_rgb.weight: 3**-0.5,
        discriminator.b32[0].conv1.weight: inner * 768**-0.5,
        discriminator.b4[2].weight: 1 / 4,
        discriminator.out.weight: 768**-0.5,
        discriminator.embed.weight: (10 * 768) ** -0.5,
    }
    for weight, deviation in expected.items():
        assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.1)


# precision


@pytest.mark.parametrize("classes", [0, 3])
def test_networks_and_gradients_are_finite_in_bfloat16(classes: int) -> None:
    generator, discriminator = networks(32, classes)
    labels = torch.arange(8) % max(classes, 1)
    z = torch.randn(8, 6)
    kinds = set()
    for name in ("b8", "b32"):
        discriminator.get_submodule(name).register_forward_hook(
            lambda module, args, output: kinds.add(output.dtype)
        )
    with torch.autocast("cpu", torch.bfloat16):
        images = generator(z, labels)
        score, features = discriminator(images, labels)
    assert kinds == {torch.bfloat16}
    assert images.dtype == score.dtype == features.dtype == torch.float32
    score.square().sum().backward()
    for part in (generator, discriminator):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        exact = discriminator(images, labels)
    assert (exact.features - features).norm() < 0.02 * features.norm()

"""StyleGAN2's layers and networks against transcriptions of their equations and published sizes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import upfirdn
from torch import Tensor, nn

from gan_vkd.data.shape import Shape
from gan_vkd.networks.interface import NETWORKS
from gan_vkd.networks.stylegan2 import Discriminator, Generator
from gan_vkd.networks.stylegan2.architecture import widths_of
from gan_vkd.networks.stylegan2.discriminator import minibatch_deviation
from gan_vkd.networks.stylegan2.generator import StyledConv
from gan_vkd.networks.stylegan2.layers import Conv, Linear, modulated_conv
from gan_vkd.networks.stylegan2.resampling import binomial_filter, blur, downsample, upsample

TINY: dict[str, Any] = {"z_dim": 8, "w_dim": 6, "mapping_layers": 2}
WIDTHS = {4: 8, 8: 6, 16: 4, 32: 4}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def noisy(network: Generator) -> Generator:
    """Sets strengths of the noise, which are zero at initialisation."""
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            nn.init.constant_(parameter, 0.5)
    return network


# resampling, against SciPy


def filtered(x: Tensor, up: int = 1) -> np.ndarray:
    """The full convolution with [1, 3, 3, 1] / 8 along both axes, times `up` along each."""
    taps = up * np.array([1, 3, 3, 1]) / 8
    return upfirdn(taps, upfirdn(taps, x.numpy(), up, axis=2), up, axis=3)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 5, 4, 6)])
def test_resampling_agrees_with_scipy(shape: tuple[int, ...]) -> None:
    x, kernel = torch.randn(shape, dtype=torch.float64), binomial_filter()
    doubled, full = filtered(x, up=2)[:, :, 1:-1, 1:-1], filtered(x)
    np.testing.assert_allclose(upsample(x, kernel).numpy(), doubled, atol=1e-12)
    np.testing.assert_allclose(blur(x, kernel, padding=2).numpy(), full[:, :, 1:-1, 1:-1], 1e-9)
    halved = full[:, :, 2:-2:2, 2:-2:2]
    np.testing.assert_allclose(downsample(x, kernel).numpy(), halved, atol=1e-12)


@pytest.mark.parametrize("resample", [upsample, downsample, partial(blur, padding=2)])
def test_resampling_is_differentiable_twice(resample: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, kernel = torch.randn(2, 3, 4, 6, dtype=torch.float64), binomial_filter()
    x.requires_grad_()

    def squared(x: Tensor) -> Tensor:
        return resample(x, kernel).square()

    assert torch.autograd.gradcheck(squared, x)
    assert torch.autograd.gradgradcheck(squared, x)


def test_resampling_keeps_a_constant_away_from_the_border() -> None:
    x = torch.ones(1, 1, 16, 16)
    for y in (upsample(x, binomial_filter()), downsample(x, binomial_filter())):
        torch.testing.assert_close(y[:, :, 1:-1, 1:-1], torch.ones_like(y[:, :, 1:-1, 1:-1]))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_autocast_does_not_change_the_type_of_what_is_resampled(kind: torch.dtype) -> None:
    x = torch.randn(1, 2, 8, 8).to(kind)
    with torch.autocast("cpu", torch.bfloat16):
        assert upsample(x, binomial_filter()).dtype == kind
        assert downsample(x, binomial_filter()).dtype == kind


# modulated convolution, against loops


def modulated_by_loops(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, up: bool):
    b, _, h, w = x.shape
    outputs, inputs, k, _ = weight.shape
    y = torch.zeros(b, outputs, h * (1 + up) + up, w * (1 + up) + up, dtype=x.dtype)
    for n in range(b):
        for o in range(outputs):
            own = torch.stack([weight[o, i] * style[n, i] for i in range(inputs)])
            if demodulate:
                own = own / (own.square().sum() + 1e-8).sqrt()
            for r in range(h):
                for c in range(w):
                    for dr in range(k):
                        for dc in range(k):
                            if up:  # each pixel adds the kernel to the output
                                y[n, o, 2 * r + dr, 2 * c + dc] += own[:, dr, dc] @ x[n, :, r, c]
                            elif (
                                0 <= (i := r + dr - k // 2) < h and 0 <= (j := c + dc - k // 2) < w
                            ):
                                y[n, o, r, c] += own[:, dr, dc] @ x[n, :, i, j]
    return y


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    ("kernel", "demodulate", "up"), [(3, True, False), (3, True, True), (1, False, False)]
)
def test_the_modulated_convolution_agrees_with_its_equations(
    kernel: int, demodulate: bool, up: bool, grouped: bool
) -> None:
    x, weight, style = (
        torch.randn(shape, dtype=torch.float64).requires_grad_()
        for shape in ((2, 3, 4, 3), (2, 3, kernel, kernel), (2, 3))
    )

    def convolve(*given: Tensor) -> Tensor:
        return modulated_conv(*given, demodulate=demodulate, up=up, grouped=grouped)

    expected = modulated_by_loops(x.detach(), weight.detach(), style.detach(), demodulate, up)
    torch.testing.assert_close(convolve(x, weight, style).detach(), expected)
    assert torch.autograd.gradcheck(convolve, (x, weight, style), fast_mode=True)
    assert torch.autograd.gradgradcheck(convolve, (x, weight, style), fast_mode=True)


def test_demodulation_gives_unit_variance_for_any_style() -> None:
    x, weight = torch.randn(4, 64, 16, 16), torch.randn(32, 64, 3, 3)
    style = torch.rand(4, 64) * torch.tensor([0.01, 1.0, 5.0, 100.0])[:, None]
    y = modulated_conv(x, weight, style)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(y.var((1, 2, 3)), torch.ones(4), rtol=0.1, atol=0)


@pytest.mark.parametrize("grouped", [False, True])
def test_styles_are_applied_in_float32_under_autocast(grouped: bool) -> None:
    x, weight = torch.randn(2, 16, 8, 8).bfloat16(), torch.randn(8, 16, 3, 3)
    style = torch.randn(2, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = modulated_conv(x, weight, style, grouped=grouped)
    assert y.dtype == torch.bfloat16
    exact = modulated_conv(x.double(), weight.double(), style.double())
    assert (y - exact).abs().max() < 0.05


def test_an_upsampling_layer_is_zero_insertion_convolution_and_filter() -> None:
    layer = StyledConv(3, 2, (8, 8), 4, up=True).double()
    x, w = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    with torch.no_grad():
        found = layer(x, w, "none")
        style = w @ layer.affine.weight.T / 2 + 1
        y = modulated_by_loops(x, layer.weight, style, demodulate=True, up=True)
    y = torch.from_numpy(4 * filtered(y)[:, :, 2:-2, 2:-2])  # the zeros cost three quarters
    torch.testing.assert_close(found, F.leaky_relu(y, 0.2) * 2**0.5)


# equalised learning rate


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_linear_layers_start_with_unit_variance(rate: float) -> None:
    layer = Linear(256, 512, rate=rate)
    assert float(layer(torch.randn(64, 256)).detach().var()) == pytest.approx(1, rel=0.1)
    assert float(layer.weight.detach().std()) == pytest.approx(1 / rate, rel=0.1)


def test_a_class_is_a_one_hot_input() -> None:
    layer, labels = Linear(5, 3, rate=0.1), torch.tensor([4, 0, 2, 2])
    nn.init.normal_(layer.bias)
    torch.testing.assert_close(layer.of_class(labels), layer(F.one_hot(labels, 5).float()))


@pytest.mark.parametrize("gain", [1.0, 0.5**0.5])
def test_convolutions_apply_scale_activation_and_gain(gain: float) -> None:
    layer, x = Conv(64, 32, 3), torch.randn(4, 64, 16, 16)
    nn.init.normal_(layer.bias)
    y = F.conv2d(x, layer.weight / 24, layer.bias, padding=1)  # sqrt(64 * 9) = 24
    expected = F.leaky_relu(y, 0.2) * 2**0.5 * gain
    torch.testing.assert_close(layer(x, gain), expected, rtol=1e-4, atol=1e-4)
    assert float((y - layer.bias[:, None, None]).detach().var()) == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("size", [1, 3])
def test_a_convolution_that_halves_filters_first(size: int) -> None:
    layer, x = Conv(3, 4, size, down=True, linear=True).double(), torch.randn(2, 3, 8, 8).double()
    before = torch.from_numpy(filtered(x)[:, :, 1:-1, 1:-1])  # 9 x 9, centred between the pixels
    if size == 1:
        before = before[:, :, 1:-1, 1:-1]
    expected = F.conv2d(before, layer.weight / (3 * size**2) ** 0.5, stride=2)
    torch.testing.assert_close(layer(x), expected)
    assert expected.shape[2:] == (4, 4)


def test_outputs_are_clamped() -> None:
    layer, x = Conv(4, 4, 3, clamp=0.5), torch.randn(2, 4, 8, 8)
    assert layer(x).abs().max() == 0.5
    assert layer(x, gain=2.0).abs().max() == 1.0
    network = Generator(WIDTHS, **TINY, clamp=0.1)
    assert network(torch.randn(2, 8), torch.zeros(2).long()).abs().max() < 1


# minibatch standard deviation


@pytest.mark.parametrize(("count", "group"), [(8, 4), (7, 4), (3, 4), (1, 4), (6, 2), (5, 1)])
def test_the_minibatch_deviation_by_hand(count: int, group: int) -> None:
    x = torch.randn(count, 3, 2, 2, dtype=torch.float64)
    expected = []
    for first in range(0, count, group):
        rows = x[first : first + group].numpy()
        deviation = np.sqrt(rows.var(0) + 1e-8).mean()
        expected += [deviation] * len(rows)
    found = minibatch_deviation(x, group)
    np.testing.assert_allclose(found.flatten().numpy(), expected, rtol=1e-9)


def test_real_and_fake_images_are_not_compared_with_each_other() -> None:
    network = Discriminator(WIDTHS, 3).eval()
    fake, real, labels = torch.randn(8, 3, 32, 32), torch.rand(8, 3, 32, 32), torch.arange(8) % 3
    together = network(torch.cat([fake, real]), labels.repeat(2)).score
    alone = torch.cat([network(fake, labels).score, network(real, labels).score])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    shuffled = network(torch.stack([fake, real], 1).flatten(0, 1), labels.repeat_interleave(2))
    assert not torch.allclose(shuffled.score[::2], alone[:8], rtol=1e-3, atol=1e-3)


# sizes


def expected_sizes(
    resolution: int, base: int, mapping: int, classes: int = 0, residual: bool = True
) -> tuple[int, int]:
    """Numbers of parameters with 512-wide latents, summed layer by layer."""
    width = {2**k: min(base >> k, 512) for k in range(2, resolution.bit_length())}
    dense = lambda i, o: (i + 1) * o  # noqa: E731
    styled = lambda i, o: 9 * i * o + o + 1 + dense(512, i)  # noqa: E731
    image = lambda i: 3 * i + 3 + dense(512, i)  # noqa: E731
    embedding = dense(classes, 512) if classes else 0
    first = dense(1024 if classes else 512, 512)
    generator = embedding + first + (mapping - 1) * dense(512, 512)
    generator += 16 * width[4] + styled(width[4], width[4]) + image(width[4])
    discriminator = 4 * width[resolution]
    for side in list(width)[1:]:
        below, here = width[side // 2], width[side]
        generator += styled(below, here) + styled(here, here) + image(here)
        discriminator += 9 * here * here + here + 9 * here * below + below
        discriminator += here * below if residual else 0
    c = width[4]
    discriminator += 9 * (c + 1) * c + c + dense(16 * c, c) + dense(c, c if classes else 1)
    return generator, discriminator + (embedding + 8 * dense(c, c) if classes else 0)


@pytest.mark.parametrize(
    ("resolution", "options", "published"),
    [
        (256, {"mapping_layers": 8}, (24_767_458, 24_001_089)),  # paper256 of StyleGAN2-ADA
        (1024, {"mapping_layers": 8}, (30_370_060, 29_012_513)),  # config F of StyleGAN2
        (32, {"channel_base": 32768, "residual": False}, None),  # cifar of StyleGAN2-ADA
        (128, {}, None),  # auto
        (512, {}, None),
    ],
)
@pytest.mark.parametrize("classes", [0, 10])
def test_parameter_counts(resolution: int, options: dict, published: Any, classes: int) -> None:
    network = NETWORKS.make({"name": "stylegan2"} | options)
    with torch.device("meta"):
        generator = network.generator(Shape(3, resolution, resolution), classes)
        discriminator = network.discriminator(Shape(3, resolution, resolution), classes)
    counted = size(generator), size(discriminator)
    base = options.get("channel_base", 32768 if resolution >= 512 else 16384)
    layers, residual = options.get("mapping_layers", 2), options.get("residual", True)
    assert counted == expected_sizes(resolution, base, layers, classes, residual)
    if published and not classes:
        assert counted == published


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("classes", [0, 3])
def test_networks_have_the_expected_shapes(resolution: int, classes: int) -> None:
    options = {"channel_base": 256, "channel_max": 4, "z_dim": 8, "w_dim": 6}
    network = NETWORKS.make({"name": "stylegan2"} | options)
    generator = network.generator(Shape(3, resolution, resolution), classes)
    discriminator = network.discriminator(Shape(3, resolution, resolution), classes)
    labels = torch.arange(2) % max(classes, 1)
    images = generator(generator.latents(2), labels)
    assert images.shape == (2, 3, resolution, resolution)
    found = discriminator(images, labels)
    assert found.score.shape == (2,)
    assert found.features.shape == (2, discriminator.width)
    if classes:
        last, mapped = discriminator.b4.out(found.features), discriminator.mapping(None, labels)
        torch.testing.assert_close(found.score, (last * mapped).sum(1) / discriminator.width**0.5)
    else:
        torch.testing.assert_close(found.score, discriminator.b4.out(found.features)[:, 0])


def test_widths_are_those_of_the_automatic_configuration() -> None:
    assert widths_of(32, "auto", 512) == {4: 512, 8: 512, 16: 512, 32: 512}
    assert widths_of(256, "auto", 512)[256] == 64
    assert widths_of(512, "auto", 512)[512] == 64


def test_only_sides_of_the_list_are_accepted() -> None:
    with pytest.raises(ValueError, match=r"data\.resolution = 128: BigGAN takes 32, 64"):
        NETWORKS.make("biggan").require(Shape(3, 128, 128))
    NETWORKS.make("stylegan2").require(Shape(3, 512, 512))


# the generator's modes


def test_the_same_w_without_noise_gives_the_same_picture() -> None:
    network = noisy(Generator(WIDTHS, **TINY))
    ws = torch.randn(2, network.synthesis.styles, 6)
    once, again = network.synthesis(ws, "none"), network.synthesis(ws, "none")
    assert torch.equal(once, again)
    alone = network.synthesis(ws[:1], "none")
    torch.testing.assert_close(alone, once[:1], rtol=1e-4, atol=1e-4)
    constant = network.synthesis(ws, "constant")
    assert torch.equal(constant, network.synthesis(ws, "constant"))
    random = network.synthesis(ws, "random")
    for other in (constant, random, network.synthesis(ws, "random")):
        assert not torch.allclose(once, other)
    assert not torch.equal(random, network.synthesis(ws, "random"))


def test_in_eval_mode_a_latent_has_one_picture() -> None:
    network = noisy(Generator(WIDTHS, 3, **TINY)).eval()
    z, labels = torch.randn(4, 8), torch.arange(4) % 3
    noisy_picture = network(z, labels)
    assert torch.equal(network(z, labels), noisy_picture)
    assert not torch.allclose(network(z, (labels + 1) % 3), noisy_picture)
    network.noise = "none"
    assert not torch.allclose(network(z, labels), noisy_picture)
    network.train()
    assert not torch.equal(network(z, labels), network(z, labels))


def test_full_truncation_gives_the_mean_picture() -> None:
    network = Generator(WIDTHS, **TINY)
    labels = torch.zeros(64, dtype=torch.long)
    for _ in range(3):
        network(torch.randn(64, 8), labels)
    network.eval()
    z, w_avg = torch.randn(4, 8), network.mapping.w_avg
    full = network(z, labels[:4])
    network.truncate(0.0)
    mean = network.synthesis(w_avg.expand(1, network.synthesis.styles, -1))
    torch.testing.assert_close(network(z, labels[:4]), mean.expand(4, -1, -1, -1))
    network.truncate(1.0)
    assert torch.equal(network(z, labels[:4]), full)
    network.truncate(0.5)
    w = network.mapping(z, labels[:4]).lerp(w_avg, 0.5)
    half = network.synthesis(w[:, None].expand(-1, network.synthesis.styles, -1))
    torch.testing.assert_close(network(z, labels[:4]), half)


def test_the_average_of_w_follows_its_mean() -> None:
    network = Generator(WIDTHS, **TINY)
    z, labels = torch.randn(16, 8), torch.zeros(16, dtype=torch.long)
    mean = network.mapping(z, labels).mean(0)
    expected = torch.zeros(6)
    for _ in range(3):
        network(z, labels)
        expected = 0.995 * expected + 0.005 * mean
    torch.testing.assert_close(network.mapping.w_avg, expected)
    network.eval()(z, labels)
    torch.testing.assert_close(network.mapping.w_avg, expected)


def test_styles_change_to_another_latent_at_the_crossover() -> None:
    network = Generator(WIDTHS, 3, **TINY, style_mixing=0.75)
    z, labels = torch.randn(400, 8), torch.arange(400) % 3
    w = network.mapping(z, labels)
    ws = network._mixed(w, labels)
    own = (ws == w[:, None]).all(2)
    first = own.sum(1)  # own styles come first
    assert (own == (torch.arange(8) < first[:, None])).all()
    assert set(first.tolist()) == set(range(1, 9))
    assert float((first < 8).float().mean()) == pytest.approx(0.75, abs=0.07)
    for sample in ((first < 7).nonzero()[:, 0])[:20]:
        other = ws[sample, first[sample] :]
        assert (other == other[0]).all()


def test_without_style_mixing_nothing_else_is_drawn() -> None:
    network = Generator(WIDTHS, **TINY, style_mixing=0.0)
    w = torch.randn(2, 6)
    state = torch.get_rng_state()
    assert torch.equal(network._mixed(w, torch.zeros(2).long()), w[:, None].expand(-1, 8, -1))
    assert torch.equal(torch.get_rng_state(), state)


# precision


@pytest.mark.parametrize("classes", [0, 3])
def test_networks_and_gradients_are_finite_in_bfloat16(classes: int) -> None:
    generator = noisy(Generator(WIDTHS, classes, **TINY, clamp=256))
    discriminator = Discriminator(WIDTHS, classes, clamp=256)
    labels = torch.arange(8) % max(classes, 1)
    z = 1e3 * torch.randn(8, 8)  # normalised before the mapping
    with torch.autocast("cpu", torch.bfloat16):
        images = generator(z, labels)
        score, features = discriminator(images, labels)
    assert images.dtype == score.dtype == features.dtype == torch.float32
    score.sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        exact = discriminator(images, labels)
    assert (exact.features - features).norm() < 0.02 * features.norm()

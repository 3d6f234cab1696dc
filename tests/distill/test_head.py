"""KD-DLGAN's head: two linear layers, spectrally normalised or not."""

import pytest
import torch

from gan_vkd.distill.head import HIDDEN, Head
from gan_vkd.networks.layers import SNLinear

DS, DT = 16, 12


def build(spectral: bool = True) -> Head:
    torch.manual_seed(0)
    return Head(DS, DT, spectral=spectral)


@pytest.mark.parametrize("spectral", [True, False])
def test_the_head_is_affine(spectral: bool) -> None:
    head = build(spectral).double().eval()
    a, b = torch.randn(2, 5, DS, dtype=torch.float64)
    torch.testing.assert_close(head(0.3 * a + 0.7 * b), 0.3 * head(a) + 0.7 * head(b))
    assert head(a).shape == (5, DT)


def test_weights_are_initialised_as_in_the_discriminator() -> None:
    for layer in build(spectral=False).layers:
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
        assert float(layer.weight.detach().mean()) == pytest.approx(0, abs=1e-3)


def test_the_head_equals_the_discriminators_layers_with_equal_weights() -> None:
    """Output and gradients, once the power iterations of both have settled."""
    head = build().double()
    layers = [SNLinear(DS, HIDDEN).double(), SNLinear(HIDDEN, DT).double()]
    for ours, theirs in zip(head.layers, layers, strict=True):
        theirs.load_state_dict(
            {
                "weight": ours.parametrizations.weight.original,
                "bias": ours.bias,
                "u0": theirs.u0,
                "sv0": theirs.sv0,
            }
        )
    features = torch.randn(7, DS, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(1000):
            head(features), layers[1](layers[0](features))
    found, expected = head(features), layers[1](layers[0](features))
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(head.layers, layers, strict=True):
        torch.testing.assert_close(ours.parametrizations.weight.original.grad, theirs.weight.grad)
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_singular_values_are_one_from_the_first_forward() -> None:
    head = build()
    head(torch.randn(3, DS))
    for layer in head.eval().layers:
        norm = torch.linalg.matrix_norm(layer.weight.detach(), 2)
        assert float(norm) == pytest.approx(1, rel=0.02)


def test_the_power_iteration_follows_the_weights() -> None:
    head = build()
    with torch.no_grad():
        for layer in head.layers:
            layer.parametrizations.weight.original.normal_()
        for _ in range(300):
            head(torch.randn(3, DS))
    for layer in head.eval().layers:
        norm = torch.linalg.matrix_norm(layer.weight.detach(), 2)
        assert float(norm) == pytest.approx(1, rel=1e-3)


def test_the_head_computes_in_float32_in_half_models_and_under_autocast() -> None:
    features = torch.randn(3, DS)
    expected = build()(features)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(build()(features), expected)
    halved = build().bfloat16()(features.bfloat16())
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, build()(features.bfloat16().float()))

"""FreezeD: the lower layers of the discriminator stay as they are, to the bit."""

from pathlib import Path

import pytest
import torch

from gan_vkd.data.shape import Shape
from gan_vkd.networks import biggan
from gan_vkd.networks.interface import Discriminator
from gan_vkd.networks.stylegan2.architecture import StyleGAN2
from gan_vkd.runtime.errors import SettingsError
from tests.conftest import MakeSettings
from tests.resuming import assert_resumes_identically
from tests.test_gan import batch, build, changed, copy
from tests.test_r3gan_training import R3GAN
from tests.test_stylegan2_training import STYLEGAN2

NETWORKS = {
    "biggan": (("regularize={r1: 1, r1_every: 2}",), 2, ("blocks.0.", "blocks.1.")),
    "stylegan2": (STYLEGAN2, 5, ("b32.", "b16.conv0.")),
    "r3gan": (R3GAN, 2, ("from_rgb.", "b32.")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_layers_keep_weights_and_buffers(name: str, small: MakeSettings) -> None:
    options, count, frozen = NETWORKS[name]
    gan = build(small, *options, f"train.freeze_d={count}")
    before = copy(gan.discriminator)
    for step in range(3):
        gan.discriminator_step(batch(), batch().labels, step)
        gan.generator_step(batch().labels, step, batch())
        gradients = gan.discriminator_gradients()
        assert not any(f".discriminator.{part}" in key for key in gradients for part in frozen)
    moved = changed(before, gan.discriminator)
    assert not any(key.startswith(frozen) for key in moved)
    weights = {key for key, _ in gan.discriminator.named_parameters() if not key.startswith(frozen)}
    assert moved >= weights - {"linear.bias", "b4.out.bias"}
    for key, parameter in gan.discriminator.named_parameters():
        assert parameter.requires_grad == (not key.startswith(frozen))
        assert (parameter in gan.d_optimizer.state) == (not key.startswith(frozen))


def test_the_generator_learns_through_frozen_layers(small: MakeSettings) -> None:
    gan = build(small, "train.freeze_d=4", arm="none")
    before = copy(gan.generator)
    gan.generator_step(batch().labels, 0)
    assert changed(before, gan.generator) >= {name for name, _ in gan.generator.named_parameters()}


def test_layers_are_counted_as_published() -> None:
    network = StyleGAN2(channel_base=64).discriminator(Shape(3, 64, 64), 0)
    names = {id(module): name for name, module in network.named_modules()}
    first = [names[id(layer)] for layer in network.lower_layers()]
    assert first[:5] == ["b64.fromrgb", "b64.conv0", "b64.conv1", "b64.skip", "b32.conv0"]
    assert first[-1] == "b8.skip"
    assert len(first) == 4 + 3 * 3


def test_too_many_layers_are_refused(small: MakeSettings) -> None:
    with pytest.raises(SettingsError, match=r"train\.freeze_d = 5: the discriminator has 4 layers"):
        build(small, "train.freeze_d=5", arm="none")


def test_a_network_without_named_layers_is_refused(
    small: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(biggan.Discriminator, "lower_layers", Discriminator.lower_layers)
    with pytest.raises(SettingsError, match=r"freeze_d = 1: the discriminator does not name"):
        build(small, "train.freeze_d=1", arm="none")


def test_an_interrupted_run_resumes_bit_for_bit(small: MakeSettings, tmp_path: Path) -> None:
    assert_resumes_identically(small("train.freeze_d=2", arm="none"), tmp_path)


def test_a_generators_update_leaves_the_discriminators_gradients(small: MakeSettings) -> None:
    gan = build(small, "train.freeze_d=1", arm="none")
    gan.discriminator_step(batch(), batch().labels, 0)
    before = {name: value.clone() for name, value in gan.discriminator_gradients().items()}
    gan.generator_step(batch().labels, 0)
    after = gan.discriminator_gradients()
    assert all(torch.equal(after[name], value) for name, value in before.items())

"""Each adversarial loss with each pair of networks: an update runs, with finite gradients."""

import pytest

from gan_vkd.game.adversary import ADVERSARIES
from gan_vkd.networks.interface import NETWORKS
from tests.conftest import MakeSettings
from tests.test_gan import batch, build

NARROW = {
    "biggan": "{name: biggan, ch: 4, z_dim: 8}",
    "stylegan2": "{name: stylegan2, channel_base: 64, channel_max: 8, z_dim: 8, w_dim: 8}",
    "r3gan": "{name: r3gan, channel_base: 64, channel_max: 8, group_width: 4, z_dim: 8}",
}
PENALTIES = {
    "none": "regularize={}",
    "lazy R1": "regularize={r1: 1, r1_every: 1}",
    "R1 and R2": "regularize={r1: 1, r2: 1, r1_every: 1}",
}


def test_all_networks_are_here() -> None:
    assert NARROW.keys() == set(NETWORKS)


@pytest.mark.parametrize("penalties", PENALTIES)
@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("network", NARROW)
def test_an_update_has_finite_gradients(
    network: str, adversary: str, penalties: str, small: MakeSettings
) -> None:
    keys = f"model={NARROW[network]}", f"adversary={adversary}", PENALTIES[penalties]
    trainer, given = build(small, *keys, arm="none"), batch()
    for step in range(2):
        logged = trainer.discriminator_step(given, given.labels, step)
        logged |= trainer.generator_step(given.labels, step, given)
    assert all(value.isfinite() for value in logged.values())
    gradients = trainer.discriminator_gradients() | trainer.generator_gradients()
    assert all(value.isfinite().all() for value in gradients.values())
    for name in ("generator", "discriminator"):
        assert any(value.any() for key, value in gradients.items() if f"of {name}." in key)

"""Path length regularisation against closed forms and finite differences, and in updates."""

import math
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from gan_vkd.game.generator_regularization import (
    DECAY,
    PathLength,
    path_length_penalty,
    path_lengths,
)
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.stylegan2 import Generator
from gan_vkd.runtime.errors import SettingsError
from tests.conftest import MakeSettings
from tests.resuming import assert_resumes_identically
from tests.test_gan import batch, build
from tests.test_stylegan2_training import STYLEGAN2

REGULARIZED = (*STYLEGAN2, "regularize={path_length: 2, path_length_every: 2}", "augment=[]")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_the_length_of_a_linear_generator_is_that_of_its_transposed_matrix() -> None:
    matrix = torch.randn(3 * 4 * 2, 5, dtype=torch.float64)
    styles = torch.randn(6, 1, 5, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(6, 3, 4, 2, dtype=torch.float64)
    images = (styles.squeeze(1) @ matrix.T).view(6, 3, 4, 2)
    expected = (noise.flatten(1) @ matrix).norm(dim=1) / math.sqrt(8)
    torch.testing.assert_close(path_lengths(images, styles, noise), expected)


def test_the_length_is_the_root_of_the_mean_over_layers() -> None:
    styles = torch.randn(2, 3, 4, requires_grad=True)
    images = (styles * torch.tensor([1.0, 2.0, 3.0])[:, None]).sum((1, 2)).view(2, 1, 1, 1)
    lengths = path_lengths(images, styles, torch.ones(2, 1, 1, 1))
    torch.testing.assert_close(lengths, torch.full((2,), math.sqrt(4 * (1 + 4 + 9) / 3)))


def test_orthogonal_generators_of_one_scale_are_not_penalised() -> None:
    """In expectation over the noise; with one pixel the length is the noise's magnitude."""
    lengths = torch.full((4,), 3.0)
    penalty, average = path_length_penalty(lengths, torch.tensor(3.0))
    assert penalty == 0
    assert average == 3


def test_the_average_moves_before_the_penalty() -> None:
    lengths = torch.tensor([1.0, 3.0], requires_grad=True)
    penalty, average = path_length_penalty(lengths, torch.tensor(0.0))
    assert average == pytest.approx(2 * (1 - DECAY))
    assert not average.requires_grad
    expected = ((1 - 0.02) ** 2 + (3 - 0.02) ** 2) / 2
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-6)


def test_the_penalty_is_differentiable_in_a_generators_weights() -> None:
    generator = Generator({4: 2, 8: 2}, z_dim=3, w_dim=3, mapping_layers=1).double()
    start = torch.randn(2, generator.synthesis.styles, 3, dtype=torch.float64)
    noise = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    parameter = generator.synthesis.b8.conv0.weight

    def penalty(weight: Tensor) -> Tensor:
        styles = start.clone().requires_grad_()
        images = torch.func.functional_call(
            generator.synthesis, {"b8.conv0.weight": weight}, (styles, "none")
        )
        return path_length_penalty(path_lengths(images, styles, noise), noise.new_tensor(0.5))[0]

    assert torch.autograd.gradcheck(penalty, parameter.detach().clone().requires_grad_())


def term_of(trainer: Trainer) -> PathLength:
    return cast(PathLength, trainer.regularizers["path_length_loss"])


def test_the_term_is_the_formula_on_every_second_label(small: MakeSettings) -> None:
    gan, other = (build(small, *REGULARIZED, arm="none") for _ in range(2))
    labels = batch().labels
    torch.manual_seed(3)
    found = gan.generator_step(labels, 4)

    torch.manual_seed(3)
    other.score(other.generate(labels), labels)
    images, styles = other.generator.styled(torch.randn(4, 8), labels[::2])
    lengths = path_lengths(images, styles, torch.randn(4, 3, 32, 32))
    mean = 0.01 * lengths.mean()
    expected = 2 * 2 * (lengths - mean).square().mean()
    torch.testing.assert_close(found["path_length_loss"], expected)
    torch.testing.assert_close(term_of(gan).average, mean.detach())


def test_the_term_trains_the_generator_in_every_kth_update(small: MakeSettings) -> None:
    """With its own gradient: the losses are added, and the average is part of the state."""
    gan, plain = build(small, *REGULARIZED, arm="none"), build(small, *STYLEGAN2, arm="none")
    labels = batch().labels
    for iteration in range(3):
        before = float(term_of(gan).average)
        logged = gan.generator_step(labels, iteration)
        assert ("path_length_loss" in logged) == (iteration % 2 == 0)
        assert (float(term_of(gan).average) == before) == (iteration % 2 == 1)
        assert "path_length_loss" not in plain.generator_step(labels, iteration)
        assert all(value.isfinite() for value in logged.values())
    again = build(small, *REGULARIZED, arm="none")
    again.load_state(gan.state())
    assert float(term_of(again).average) == float(term_of(gan).average) > 0
    assert gan.generator_variant(0) != gan.generator_variant(1)
    assert gan.generator_variant(1) == gan.generator_variant(3)


def test_it_shortens_the_spread_of_lengths(small: MakeSettings) -> None:
    """Trained alone, the lengths approach their mean."""
    torch.manual_seed(1)
    generator = Generator({4: 8, 8: 8}, z_dim=8, w_dim=8, mapping_layers=1, style_mixing=0.0)
    optimizer = torch.optim.Adam(generator.parameters(), 5e-3, betas=(0.0, 0.99))
    labels, average, spreads = torch.zeros(32, dtype=torch.int64), torch.zeros(()), []
    for _ in range(60):
        images, styles = generator.styled(torch.randn(32, 8), labels)
        lengths = path_lengths(images, styles, torch.randn_like(images))
        penalty, average = path_length_penalty(lengths, average)
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        spreads.append(float((lengths.detach() - average).square().mean()))
    assert sum(spreads[-10:]) < 0.5 * sum(spreads[:10])


def test_bfloat16_keeps_the_average_and_the_penalty_in_float32(small: MakeSettings) -> None:
    gan = build(small, *REGULARIZED, "train.precision=bfloat16", arm="none")
    for iteration in range(3):
        loss = gan.generator_step(batch().labels, iteration).get("path_length_loss")
        assert loss is None or (loss.dtype == torch.float32 and loss.isfinite())
    assert term_of(gan).average.dtype == torch.float32


def test_an_interrupted_run_resumes_bit_for_bit(small: MakeSettings, tmp_path: Path) -> None:
    assert_resumes_identically(small(*REGULARIZED, arm="none"), tmp_path)


def test_a_network_without_styles_is_refused_in_one_line(small: MakeSettings) -> None:
    with pytest.raises(SettingsError, match="path_length = 2: model = biggan has no styles") as e:
        small("regularize.path_length=2", arm="none")
    assert len(str(e.value).splitlines()) == 1

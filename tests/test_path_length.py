"""Path length regularisation against closed forms and finite differences."""

import math

import pytest
import torch
from torch import Tensor

from gan_vkd.game.path_length import DECAY, path_length_penalty, path_lengths
from gan_vkd.networks.stylegan2 import Generator


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

"""Samples of a generator, and grids of them."""

import pytest
import torch
from torchvision.utils import make_grid

from gan_vkd.data.image_set import to_uint8
from gan_vkd.networks.biggan import Generator
from gan_vkd.networks.sampling import draw_samples
from gan_vkd.report.pictures import class_grid, grid
from tests.conftest import SHARES


def test_samples_depend_on_the_seed_only(generator: Generator) -> None:
    torch.manual_seed(1)
    a = draw_samples(generator, SHARES, 20, 7, seed=3)
    torch.manual_seed(2)
    b = draw_samples(generator, SHARES, 20, 20, seed=3)
    assert (a.int() - b.int()).abs().max() <= 1  # rounding differs with the batch size
    assert not torch.equal(a, draw_samples(generator, SHARES, 20, 7, seed=4))
    assert a.dtype == torch.uint8
    assert a.shape == (20, 3, 32, 32)


def test_labels_of_samples_follow_the_class_shares(generator: Generator) -> None:
    only = [float(c == 3) for c in range(10)]
    source = torch.Generator().manual_seed(0)
    torch.multinomial(torch.tensor(only), 5, replacement=True, generator=source)
    z = torch.randn(5, 8, generator=source)
    expected = to_uint8(generator(z, torch.full((5,), 3)))
    assert torch.equal(draw_samples(generator, only, 5, 5, seed=0), expected)


@pytest.mark.parametrize(("count", "channels", "columns"), [(25, 3, 10), (7, 1, 9), (12, 4, 6)])
def test_a_grid_is_that_of_torchvision(count: int, channels: int, columns: int) -> None:
    images = torch.randint(256, (count, channels, 5, 7), dtype=torch.uint8)
    made = make_grid(images, nrow=columns, padding=1, pad_value=255)
    assert torch.equal(grid(images, columns), made[:channels])  # grey ones become three channels


def test_the_grid_has_a_row_per_class(generator: Generator) -> None:
    picture = class_grid(generator, SHARES)
    assert picture.shape == (3, 10 * 33 + 1, 10 * 33 + 1)
    some = class_grid(generator, [0.5, 0, 0, 0.5, 0, 0, 0, 0, 0, 0])
    assert some.shape == (3, 2 * 33 + 1, 10 * 33 + 1)

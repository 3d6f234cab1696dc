"""The measure of leaked augmentation: on damaged images, on real ones, in an evaluation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.data.augment import cutout, translation
from gan_vkd.data.image_set import to_network
from gan_vkd.data.sets import load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.data.shape import Shape
from gan_vkd.evaluation.leak import SHARE, TOLERANCE, leaked
from gan_vkd.evaluation.measures import Neighbourhoods
from gan_vkd.evaluation.metrics import METRICS, Samples
from gan_vkd.networks.interface import Generator
from tests.conftest import SHARES, MakeSettings, evaluator_of
from tests.real_data import SHARED, needs_shared


def images(height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    source = torch.Generator().manual_seed(0)
    size = (20, channels, height, width)
    return torch.randint(256, size, generator=source, dtype=torch.uint8)


@pytest.mark.parametrize(("height", "width", "channels"), [(32, 32, 3), (16, 48, 1), (64, 32, 4)])
def test_squares_and_borders_are_found_wherever_they_are(
    height: int, width: int, channels: int
) -> None:
    given = images(height, width, channels)
    assert not leaked(given).any()
    h, w = height // 4, width // 4
    for top in (0, 3, height - h):
        for left in (0, 5, width - w):
            damaged = given.clone()
            damaged[3, :, top : top + h, left : left + w] = 127
            found = leaked(damaged)
            assert found[3, 0]
            assert found.sum() == 1
    for edge in ((slice(None), 0), (slice(None), -1), (0,), (-1,)):
        damaged = given.clone()
        damaged[(5, slice(None), *edge)] = 128
        found = leaked(damaged)
        assert found[5, 1]
        assert found.sum() == 1


def test_only_grey_within_the_tolerance_counts() -> None:
    for level, found in ((127 - TOLERANCE, False), (128 - TOLERANCE, True), (127 + TOLERANCE, True),
                         (128 + TOLERANCE, False), (0, False), (255, False)):  # fmt: skip
        constant = torch.full((1, 3, 32, 32), level, dtype=torch.uint8)
        assert leaked(constant).tolist() == [[found, found]]
    tinted = torch.tensor([127, 127, 180], dtype=torch.uint8)[:, None, None].expand(1, 3, 32, 32)
    assert not leaked(tinted).any()


def test_a_share_of_other_pixels_is_allowed() -> None:
    given = images()
    given[0, :, 8:16, 8:16] = 127
    allowed = int(64 * (1 - SHARE))
    given[0, 0, 8, 8 : 8 + allowed] = 255
    assert leaked(given)[0, 0]
    given[0, 0, 9, 8 : 8 + allowed] = 255
    assert not leaked(given)[0, 0]


def test_shares_are_those_of_samples_beside_real_images() -> None:
    features = torch.zeros(2, 1).numpy()
    marks = torch.tensor([[True, False], [True, True], [False, True], [False, False]])
    samples = Samples(features, Neighbourhoods(features), leaked=marks, leaked_real=marks[2:])
    assert METRICS["leak"](samples) == {
        "leaked": 0.75, "leaked_by_chance": 0.5, "leaked_square": 0.5, "leaked_border": 0.5
    }  # fmt: skip
    assert METRICS["leak"](Samples(features, Neighbourhoods(features))) == {}


class HalfGrey(Generator):
    """Images of half of the classes are grey, the others noise."""

    shape, z_dim, classes = Shape(3, 32, 32), 8, 10

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        noise = torch.rand(len(z), 3, 32, 32) * 2 - 1
        return noise * (labels > 4)[:, None, None, None]


def test_an_evaluation_counts_leaks(small: MakeSettings) -> None:
    found = evaluator_of(small())(HalfGrey(), SHARES)
    assert found["leaked"] == found["leaked_square"] == found["leaked_border"]
    assert 0.2 < found["leaked"] < 0.8
    assert found["leaked_by_chance"] == 0  # digits are black and white


@needs_shared
def test_real_images_hardly_ever_look_leaked_and_damaged_ones_do() -> None:
    data = SHARED / "data" / "cifar10-subset" / "train.zip"
    real = load_training_set(DataSettings(source=str(data), num_images=2000)).images
    torch.manual_seed(0)

    def rates(damaged: Tensor) -> list[float]:
        """Of the damage alone, with noise, and blurred with noise."""
        blurred = F.avg_pool2d(F.pad(damaged, (1, 1, 1, 1), mode="replicate"), 3, 1)
        noise = torch.randn_like(damaged) * 4 / 127.5
        versions = [(x * 127.5 + 127.5).round().clamp(0, 255).byte()
                    for x in (damaged, damaged + noise, blurred + noise)]  # fmt: skip
        return torch.stack([leaked(x).double().mean(0) for x in versions]).tolist()

    square, border = leaked(real).double().mean(0).tolist()
    assert square < 0.02
    assert border < 0.01
    assert all(found > 0.93 for found, _ in rates(cutout(to_network(real))))
    # an image is not moved with probability 1/81
    assert all(found > 0.85 for _, found in rates(translation(to_network(real))))

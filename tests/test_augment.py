import pytest
import torch

from gan_vkd.data.augment import AUGMENTATIONS, Augmentations, color, cutout, translation
from gan_vkd.runtime.errors import SettingsError
from tests.conftest import MakeSettings

IMAGES = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.1


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    moved = torch.zeros_like(image)
    h, w = image.shape[1:]
    for row in range(h):
        for column in range(w):
            if 0 <= row - down < h and 0 <= column - right < w:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


def test_translation_shifts_by_up_to_an_eighth() -> None:
    torch.manual_seed(0)
    image = IMAGES[0]
    candidates = {(d, r): shifted(image, d, r) for d in range(-2, 3) for r in range(-2, 3)}
    reached = []
    for moved in translation(image.repeat(512, 1, 1, 1)):
        matching = [s for s, candidate in candidates.items() if torch.equal(candidate, moved)]
        assert len(matching) == 1
        reached += matching
    assert set(reached) == set(candidates)


def test_cutout_zeroes_one_square_of_half_the_size_at_any_centre() -> None:
    torch.manual_seed(0)
    images = IMAGES.repeat(8, 1, 1, 1)
    centred: list[set[int]] = [set(), set()]
    for image, before in zip(cutout(images), images, strict=True):
        gone = (image == 0).all(0)
        rows, columns = gone.any(1).nonzero().squeeze(1), gone.any(0).nonzero().squeeze(1)
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert gone.sum() == height * width
        for first, last, length in ((rows[0], rows[-1], height), (columns[0], columns[-1], width)):
            assert length == 8 or (4 <= length < 8 and (first == 0 or last == 15))
        for seen, first, length in ((centred[0], rows[0], height), (centred[1], columns[0], width)):
            seen.add(int(first) + 4 if first else length - 4)
        assert torch.equal(image[:, ~gone], before[:, ~gone])
    assert centred == [set(range(17)), set(range(17))]


def assert_fills(drawn: torch.Tensor, low: float, high: float) -> None:
    """Asserts that samples (512,) are within the range and cover it, ends included."""
    share = (drawn - low) / (high - low)
    assert ((share >= -1e-5) & (share <= 1 + 1e-5)).all()
    assert share.min() < 0.05
    assert share.max() > 0.95
    assert 0.45 < share.mean() < 0.55


def test_color_is_affine_per_sample_and_covers_its_ranges() -> None:
    torch.manual_seed(0)
    images = IMAGES.repeat(8, 1, 1, 1)
    grey = torch.full((512, 3, 8, 8), 0.3)
    brightened = color(grey)
    assert torch.allclose(brightened, brightened[:, :1, :1, :1].expand_as(brightened), atol=1e-6)
    assert_fills(brightened[:, 0, 0, 0] - 0.3, -0.5, 0.5)

    changed = color(images)
    grey_before = images.mean(1) - images.mean((1, 2, 3))[:, None, None]
    grey_after = changed.mean(1) - changed.mean((1, 2, 3))[:, None, None]
    contrast = (grey_after * grey_before).sum((1, 2)) / grey_before.square().sum((1, 2))
    assert torch.allclose(grey_after, contrast[:, None, None] * grey_before, atol=1e-5)
    assert_fills(contrast, 0.5, 1.5)
    chroma_before = images - images.mean(1, keepdim=True)
    chroma_after = changed - changed.mean(1, keepdim=True)
    ratio = (chroma_after * chroma_before).sum((1, 2, 3)) / chroma_before.square().sum((1, 2, 3))
    saturation = ratio / contrast
    assert torch.allclose(chroma_after, ratio[:, None, None, None] * chroma_before, atol=1e-5)
    assert_fills(saturation, 0, 2)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_differentiable(name: str) -> None:
    def run(images: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return Augmentations([name])(images)

    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, images)


def test_the_empty_policy_is_the_identity_and_policies_compose() -> None:
    assert Augmentations([])(IMAGES) is IMAGES
    torch.manual_seed(1)
    chained = Augmentations(["color", "cutout"])(IMAGES)
    torch.manual_seed(1)
    assert torch.equal(chained, cutout(color(IMAGES)))


@pytest.mark.parametrize("name", ["color", "translation", "cutout"])
def test_an_operation_is_applied_to_each_image_with_its_probability(name: str) -> None:
    """At p = 1 with the random numbers of the operation alone."""
    images = IMAGES.repeat(16, 1, 1, 1)
    operation = {"color": color, "translation": translation, "cutout": cutout}[name]
    torch.manual_seed(0)
    changed = operation(images)
    every = (changed != images).flatten(1).any(1)  # translation may be by no pixel
    for p, policy in ((1.0, name), (1.0, {"name": name, "p": 1}), (0.3, {"name": name, "p": 0.3}),
                      (0.0, {"name": name, "p": 0})):  # fmt: skip
        torch.manual_seed(0)
        found = Augmentations([policy])(images)
        kept = (found == images).flatten(1).all(1)
        assert torch.equal(found[~kept], changed[~kept])
        share = (~kept).sum() / every.sum()
        assert share == p if p in (0, 1) else abs(share - p) < 4 * (p * (1 - p) / 1024) ** 0.5


def test_a_probability_over_time_is_that_of_the_iteration() -> None:
    away = {"name": "cutout", "p": {"start": 1, "end": 0, "iterations": 10}}
    augment = Augmentations([away])
    assert augment.state_dict() == {}  # so that checkpoints of earlier versions fit
    images = IMAGES.repeat(16, 1, 1, 1)
    for iteration, p in ((0, 1.0), (5, 0.5), (10, 0.0), (99, 0.0), (0, 1.0)):
        augment.set_iteration(iteration)
        share = (augment(images) == 0).flatten(1).any(1).double().mean()
        assert abs(share - p) <= 4 * (p * (1 - p) / 1024) ** 0.5


@pytest.mark.parametrize("p", ["2", "-0.1", "often", "{start: 1, end: 2, iterations: 3}", "true"])
def test_a_wrong_probability_is_refused_in_one_line(p: str, small: MakeSettings) -> None:
    with pytest.raises(SettingsError, match=r"augment.0.p.*: expected a number from 0 to 1"):
        small(f"augment=[{{name: cutout, p: {p}}}]", arm="none")

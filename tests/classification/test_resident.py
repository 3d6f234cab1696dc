"""Crops and flips of whole batches on the device, against torchvision."""

import pytest
import torch
import torchvision.transforms.v2.functional as F

from classification.epochs.order import Order
from classification.recognition.data.feed import Feed
from classification.recognition.data.images import load_training_images
from classification.recognition.data.resident import Resident, crop, is_simple
from classification.recognition.settings import AugmentSettings
from tests.classification.conftest import MakeStudent


def test_crops_and_flips_are_those_of_torchvision() -> None:
    images = torch.randint(0, 256, (40, 3, 24, 24), dtype=torch.uint8)
    top, left = torch.randint(0, 9, (2, 40))
    flipped = torch.rand(40) < 0.5
    found = crop(images, top, left, flipped, 16)
    for i, image in enumerate(images):
        window = F.crop(image, int(top[i]), int(left[i]), 16, 16)
        assert torch.equal(found[i], F.horizontal_flip(window) if flipped[i] else window)


def test_a_batch_holds_normalised_crops_of_the_padded_images(tiny: MakeStudent) -> None:
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    settings = tiny("data.mean=[0.5, 0.4, 0.3]", "data.std=[0.2, 0.3, 0.4]")
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (settings.data.mean, settings.data.std))
    feed = Resident(images, torch.arange(6), Order(6, 3, seed=0), settings, "cpu")
    places = set()
    for number in range(100):
        batch, chosen = feed(number)
        for normalised, label in zip(batch, chosen.tolist(), strict=True):
            image = ((normalised * std + mean) * 255).round()
            padded = F.pad(images[label].float(), [4])
            windows = {
                (i, j, mirrored): F.crop(padded.flip(2) if mirrored else padded, i, j, 8, 8)
                for i in range(9) for j in range(9) for mirrored in (False, True)
            }  # fmt: skip
            (place,) = [key for key, w in windows.items() if torch.equal(w, image)]
            places.add(place)
    assert len(places) > 130  # of 162 in 300 draws


def test_batches_depend_on_seed_and_number_only(tiny: MakeStudent) -> None:
    settings = tiny()
    images = load_training_images(settings.data)
    first, again = (Feed(settings, images, "cpu") for _ in range(2))
    assert first.resident is not None
    seen = [first(number).images for number in range(7)]
    torch.manual_seed(99)
    for number in (5, 2):
        assert torch.equal(again(number).images, seen[number])
    assert not torch.equal(seen[0], seen[5])
    other = Feed(tiny("seed=1"), images, "cpu")(0)
    assert not torch.equal(other.images, seen[0])


@pytest.mark.parametrize(
    "more", [{"policy": "3a"}, {"color_jitter": 0.1}, {"erasing": 0.1}, {"crop": "resized"}]
)
def test_augmentations_beyond_crop_and_flip_run_in_workers(more: dict[str, object]) -> None:
    plain = {"policy": None, "color_jitter": 0, "erasing": 0, "crop": "padded"}
    assert is_simple(AugmentSettings.model_validate(plain))
    assert not is_simple(AugmentSettings.model_validate(plain | more))

"""The order of the images in the batches."""

import torch

from classification.recognition.data.feed import Feed
from classification.recognition.data.images import load_training_images
from tests.classification.conftest import MakeStudent


def test_batches_do_not_depend_on_the_number_of_workers(tiny: MakeStudent) -> None:
    seen = []
    for workers in (0, 2):
        settings = tiny(f"data.workers={workers}", "augment.erasing=0.5", "augment.repeats=3")
        feed = Feed(settings, load_training_images(settings.data), "cpu")
        seen.append([feed(number) for number in (0, 1, 6, 7)])
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_an_epoch_shows_every_image_once(tiny: MakeStudent) -> None:
    settings = tiny("train.batch_size=25")
    order = Feed(settings, load_training_images(settings.data), "cpu").order
    epochs = [[index for n in range(4) for _, index in order(4 * e + n)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(100))
    assert epochs[0] != epochs[1]


def test_repeated_augmentation_shows_an_image_three_times(tiny: MakeStudent) -> None:
    settings = tiny("train.batch_size=30", "augment.repeats=3")
    order = Feed(settings, load_training_images(settings.data), "cpu").order
    rows = [row for n in range(3) for row in order(n)]
    counts = torch.tensor([index for _, index in rows]).bincount(minlength=100)
    assert sorted(set(counts.tolist())) == [0, 3]
    assert len({key for key, _ in rows}) == 90  # each with its own augmentation

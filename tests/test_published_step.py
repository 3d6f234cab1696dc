"""The transcription of the published trainer, against this project's networks and step."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gan_vkd.data.batches import Batch
from gan_vkd.game.adversary import Hinge
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.biggan import Discriminator, Generator

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("published_step")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("ch", [2, 8])
def test_the_same_weights_give_the_same_images_and_scores(
    published: ModuleType, ch: int, training: bool
) -> None:
    """Also the singular vectors and batch statistics that a forward leaves behind."""
    torch.manual_seed(0)
    theirs = published.build(ch, 16, 10, "cpu")
    generator, discriminator = Generator(32, ch, 16, 10), Discriminator(32, ch, 10)
    generator.load_state_dict(theirs.generator.state_dict())
    discriminator.load_state_dict(theirs.discriminator.state_dict())
    for network in (theirs.generator, theirs.discriminator, generator, discriminator):
        network.train(training)
    z, labels = torch.randn(6, 16), torch.arange(6)
    images = theirs.generator(z, labels)
    torch.testing.assert_close(generator(z, labels), images, atol=1e-4, rtol=1e-4)
    score = theirs.discriminator(images, labels)
    ours = discriminator(images, labels)
    torch.testing.assert_close(ours.score, score.squeeze(1), atol=1e-4, rtol=1e-4)
    for network, other in ((generator, theirs.generator), (discriminator, theirs.discriminator)):
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], atol=1e-5, rtol=1e-4)


def test_both_steps_are_those_of_this_project(
    published: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the augmentation, whose random numbers differ: the same losses for three rounds."""
    monkeypatch.setattr(published, "augment", lambda images: images)
    torch.manual_seed(0)
    theirs = published.build(2, 8, 10, "cpu")
    generator, discriminator = Generator(32, 2, 8, 10), Discriminator(32, 2, 10)
    generator.load_state_dict(theirs.generator.state_dict())
    discriminator.load_state_dict(theirs.discriminator.state_dict())
    ours = Trainer(generator, discriminator, Hinge())
    labels = torch.arange(8)
    for number in range(3):
        batch = Batch(torch.rand(8, 3, 32, 32) * 2 - 1, labels, labels, labels > 8)
        torch.manual_seed(number)
        expected = [sum(theirs.discriminator_step(batch, labels))]
        expected.append(theirs.generator_step(labels, number))
        torch.manual_seed(number)
        found = [ours.discriminator_step(batch, labels, number)["d_loss"]]
        found.append(ours.generator_step(labels, number)["g_loss"])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for name, value in theirs.average.state_dict().items():
        assert torch.equal(value, theirs.generator.state_dict()[name])  # before its start


def test_its_augmentation_moves_and_blanks_like_diffaugment(published: ModuleType) -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 3, 32, 32) + 0.5
    moved = published.translation(images)
    for before, after in zip(images, moved, strict=True):
        padded = torch.nn.functional.pad(before, (4, 4, 4, 4))
        shifts = [padded[:, r : r + 32, c : c + 32] for r in range(9) for c in range(9)]
        assert sum(torch.equal(shifted, after) for shifted in shifts) == 1
    cut = published.cutout(images)
    blank = (cut == 0).all(1)
    assert torch.equal(cut, images.masked_fill(blank[:, None], 0.0))
    for mask in blank:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns
        assert 8 <= rows <= 16 and 8 <= columns <= 16  # noqa: PT018

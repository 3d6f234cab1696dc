"""Fixed views: the same at every seed, and teachers' outputs for them, computed once."""

from pathlib import Path

import pytest
import torch

from classification.recognition.learner import Learner
from classification.recognition.training import train
from classification.recognition.views import remember
from gan_vkd.runtime.errors import SettingsError
from tests.classification.conftest import MakeStudent, learner_of
from tests.classification.test_training import _dies_at
from tests.states import assert_identical

VIEWS = ["augment.views=2", "augment.erasing=0.5", "data.num_images=40", "train.batch_size=20"]


def test_an_image_has_its_views_in_turn_at_every_seed(tiny: MakeStudent) -> None:
    found = []
    for seed in (0, 1):
        _, feed = learner_of(tiny(*VIEWS, f"seed={seed}"))
        batches = [feed(number) for number in range(8)]  # of four epochs
        rows, images = (torch.cat([x[i] for x in batches]) for i in (2, 0))
        assert rows[:40].remainder(2).eq(0).all()
        assert rows[40:80].remainder(2).eq(1).all()
        assert sorted(rows[:80].tolist()) == list(range(80))
        order = rows[:80].argsort(), rows[80:].argsort()
        assert torch.equal(images[:80][order[0]], images[80:][order[1]])
        found.append(images[:80][order[0]])
    assert torch.equal(*found)
    assert not torch.equal(found[0][0], found[0][1])  # two views of an image


@pytest.mark.parametrize("arm", ["vkd", "cit"])
def test_remembered_outputs_are_those_for_the_images(arm: str, tiny: MakeStudent) -> None:
    learner, feed = learner_of(tiny(*VIEWS, arm=arm))
    remember(learner, feed)
    assert learner.remembered is not None
    for number in (1, 2):
        (part,) = learner.parts(feed(number), 1)
        asked = learner.teacher_outputs(part.images)
        for ours, theirs in zip(learner.taught(part), asked, strict=True):
            torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours.features, theirs.features, rtol=1e-4, atol=1e-5)


def test_the_cache_is_shared_by_seeds_and_by_arms(
    tiny: MakeStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = [*VIEWS, f"cache={tmp_path}"]
    learner, feed = learner_of(tiny(*cached))
    remember(learner, feed)
    other, feed = learner_of(tiny(*cached, "seed=5", "train.accumulate=2", arm="soft"))
    asked: list[int] = []
    outputs = other.teacher_outputs
    monkeypatch.setattr(other, "teacher_outputs", lambda x: (asked.append(len(x)), outputs(x))[1])
    remember(other, feed)
    assert asked == [8]  # to verify the file
    assert torch.equal(learner.remembered, other.remembered)  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 1
    remember(*learner_of(tiny(*cached, "augment.flip=0.1")))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_of_fixed_views_resumes_bit_for_bit(tiny: MakeStudent, tmp_path: Path) -> None:
    settings = tiny(*VIEWS, f"cache={tmp_path / 'cache'}", "train.checkpoint_every=2")
    train(settings, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", _dies_at(3))
        with pytest.raises(ZeroDivisionError):
            train(settings, tmp_path / "stopped")
    train(settings, tmp_path / "stopped", resume=True)
    assert_identical(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["augment.views=2", "augment.mixup=0.8"], "views: images that are mixed"),
        (["augment.views=2", "augment.repeats=3"], "views: images that are mixed or repeated"),
        (["cache=cache"], "cache: only outputs for fixed views are kept"),
    ],
)
def test_views_that_cannot_be_fixed_are_refused(
    overrides: list[str], fault: str, tiny: MakeStudent
) -> None:
    with pytest.raises(SettingsError, match=fault):
        tiny(*overrides)

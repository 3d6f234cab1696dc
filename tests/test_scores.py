from pathlib import Path

import pytest
import torch
from PIL import Image

from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.game.build import build_trainer
from gan_vkd.game.scores import Scores, save_histogram, summary
from gan_vkd.game.trainer import Trainer
from gan_vkd.run import Run
from gan_vkd.training import train
from tests.conftest import MakeSettings


def build(small: MakeSettings) -> tuple[Trainer, ImageSet, ImageSet]:
    settings = small(arm="none")
    torch.manual_seed(0)
    heldout = load_heldout_set(settings.data)
    assert heldout is not None
    return build_trainer(settings, 10, "cpu"), load_training_set(settings.data), heldout


def test_scores_are_those_of_clean_images(small: MakeSettings) -> None:
    gan, data, heldout = build(small)
    scores = Scores(data, heldout, seed=0)(gan.discriminator, gan.ema.generator)
    gan.discriminator.eval()
    with torch.no_grad():
        training = gan.score(to_network(data.images), data.labels)
        unseen = gan.score(to_network(heldout.images), heldout.labels)
    torch.testing.assert_close(scores["training"].sort().values, training.sort().values)
    torch.testing.assert_close(scores["heldout"].sort().values, unseen.sort().values)
    assert len(scores["fake"]) == len(data)


def test_measuring_scores_changes_no_state_and_is_reproducible(small: MakeSettings) -> None:
    gan, data, heldout = build(small)
    probe = Scores(data, heldout, seed=0)
    before = {k: v.clone() for k, v in gan.discriminator.state_dict().items()}
    random = torch.get_rng_state()
    first, again = (
        probe(gan.discriminator, gan.ema.generator),
        probe(gan.discriminator, gan.ema.generator),
    )
    assert all(torch.equal(first[kind], again[kind]) for kind in first)
    assert torch.equal(random, torch.get_rng_state())
    assert gan.discriminator.training
    gan.discriminator.eval()
    gan.discriminator.linear.train()
    probe(gan.discriminator, gan.ema.generator)
    assert [m for m in gan.discriminator.modules() if m.training] == [gan.discriminator.linear]
    assert all(torch.equal(v, before[k]) for k, v in gan.discriminator.state_dict().items())


def test_heldout_labels_are_mapped_to_the_training_classes(small: MakeSettings) -> None:
    gan, data, _ = build(small)
    # all of them are drawn, so their order does not matter
    chosen = data.subset(list(range(20)))
    classes = ["new", *reversed(chosen.classes)]
    renamed = ImageSet(chosen.images, 10 - chosen.labels, classes, chosen.names)
    foreign = ImageSet(chosen.images[:3], torch.zeros(3).long(), classes, chosen.names[:3])
    both = ImageSet(
        torch.cat([foreign.images, renamed.images]),
        torch.cat([foreign.labels, renamed.labels]),
        classes,
        [str(i) for i in range(23)],
    )
    expected = Scores(data, chosen, seed=0)(gan.discriminator, gan.ema.generator)["heldout"]
    found = Scores(data, both, seed=0)(gan.discriminator, gan.ema.generator)["heldout"]
    torch.testing.assert_close(found.sort().values, expected.sort().values)
    assert "heldout" not in Scores(data, foreign, seed=0)(gan.discriminator, gan.ema.generator)
    assert "heldout" not in Scores(data, None, seed=0)(gan.discriminator, gan.ema.generator)


def test_heldout_images_are_drawn_from_all_classes(small: MakeSettings) -> None:
    _, data, _ = build(small)
    sorted_by_class = ImageSet(
        torch.zeros(3000, 3, 32, 32, dtype=torch.uint8),
        torch.arange(10).repeat_interleave(300),
        data.classes,
        [str(i) for i in range(3000)],
    )
    probe = Scores(data, sorted_by_class, seed=0)
    assert torch.bincount(probe.real["heldout"].labels, minlength=10).min() > 50


def test_r_v_is_zero_without_and_one_with_full_overfitting() -> None:
    scores = {"training": torch.tensor([2.0, 4.0]), "fake": torch.tensor([-1.0, -1.0])}
    assert summary(scores) == {"score_training": 3.0, "score_fake": -1.0}
    for heldout, r_v in ((3.0, 0.0), (-1.0, 1.0), (1.0, 0.5)):
        found = summary(scores | {"heldout": torch.tensor([heldout])})
        assert found["r_v"] == pytest.approx(r_v)
    same = {kind: torch.ones(2) for kind in ("training", "heldout", "fake")}
    assert "r_v" not in summary(same)


def test_a_histogram_is_saved(tmp_path: Path) -> None:
    scores = {"training": torch.randn(50) + 1, "fake": torch.randn(50)}
    save_histogram(scores, tmp_path / "a" / "scores.png")
    for value in (1.0, 0.0, 3e16, 3e38):
        flat = {"training": torch.full((3,), value), "fake": torch.full((3,), value)}
        save_histogram(flat, tmp_path / "flat.png")
    with Image.open(tmp_path / "a" / "scores.png") as image:
        assert image.width > 300


NAN, INF = float("nan"), float("inf")


def test_scores_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    scores = {
        "training": torch.tensor([2.0, NAN, 4.0]),
        "heldout": torch.tensor([INF, 1.0]),
        "fake": torch.tensor([-1.0, -INF]),
    }
    expected = {"score_training": 3.0, "score_heldout": 1.0, "score_fake": -1.0, "r_v": 0.5}
    assert summary(scores) == expected | {"scores_not_finite": 3}
    save_histogram(scores, tmp_path / "some.png")
    scores["fake"] = torch.tensor([NAN])
    assert summary(scores) == {
        "score_training": 3.0, "score_heldout": 1.0, "scores_not_finite": 3
    }  # fmt: skip
    none = {kind: torch.tensor([NAN]) for kind in scores}
    assert summary(none) == {"scores_not_finite": 3}
    save_histogram(none, tmp_path / "none.png")
    assert {file.name for file in tmp_path.iterdir()} == {"some.png", "none.png"}


def test_tensorboard_leaves_out_values_that_are_not_finite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from gan_vkd.runtime.loggers.tensorboard import TensorBoard

    logger = TensorBoard(tmp_path, 1)
    logger.histograms(
        "scores", {"a": torch.tensor([1.0, NAN, 2.0]), "b": torch.tensor([NAN, INF])}, 1
    )
    logger.scalars("train", {"x": 1.0}, 1)
    logger.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [h.histogram_value.num for h in events.Histograms("scores/a")] == [2]
    assert "scores/b" not in events.Tags()["histograms"]
    assert "train/x" in events.Tags()["scalars"]
    assert not capsys.readouterr().out


def test_a_generator_of_nan_does_not_end_an_evaluation(small: MakeSettings, tmp_path: Path) -> None:
    """Its last update is checked by no later loss."""
    train(small("train.iterations=1", "train.g_lr=1e30", arm="none"), tmp_path)
    (record,) = (r for r in Run(tmp_path).records("metrics") if "judges" in r)
    assert record["scores_not_finite"] > 0


def test_a_run_logs_the_scores(small: MakeSettings, tmp_path: Path) -> None:
    train(small(arm="none"), tmp_path / "run")
    records = [r for r in Run(tmp_path / "run").records("metrics") if "judges" in r]
    assert len(records) == 2
    assert all(
        {"score_training", "score_heldout", "score_fake", "r_v"} <= r.keys() for r in records
    )
    files = sorted(f.name for f in (tmp_path / "run" / "scores").iterdir())
    assert files == ["00000003.png", "00000006.png"]

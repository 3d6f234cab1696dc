"""From settings to a student: resumed bit for bit, scheduled and averaged as timm does."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, accuracy

from classification.config import ClassifierSettings
from classification.data import Batch, Feed, load_heldout_images, load_training_images
from classification.evaluation import evaluate_run, measure
from classification.learner import Learner
from classification.run import Run, read_student
from classification.schedule import Rate
from classification.students import build_student
from classification.training import train
from gan_vkd import ranks
from gan_vkd.errors import SettingsError, VkdError
from gan_vkd.progress import restore
from gan_vkd.teachers import load_recogniser
from tests.classification.conftest import MakeStudent
from tests.test_ranks import on_ranks
from tests.test_training import assert_identical

ARMS = ["plain", "hard", "soft", "cit", "dearkd", "vkd", "vkd_linear", "vkd_mlp", "vkd_whitening",
        "vkd_standardize", "vkd_none", "vkd_hard"]  # fmt: skip


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_and_leaves_its_student(
    arm: str, tiny: MakeStudent, tmp_path: Path
) -> None:
    settings = tiny("train.epochs=1", "train.batch_size=50", arm=arm)
    train(settings, tmp_path / "run")
    records = Run(tmp_path / "run").records("metrics")
    assert [r["epoch"] for r in records if "label_loss" in r] == [0.5, 1.0]
    assert [r["epoch"] for r in records if "top1" in r] == [1.0]
    student, facts = read_student(tmp_path / "run")
    assert facts["tokens"] == {"plain": 0, "cit": 2}.get(arm, 1)
    heldout = load_heldout_images(settings.data, facts["classes"])
    assert heldout is not None
    assert measure(student, settings, heldout, "cpu")["top1"] == records[-1]["top1"]


def test_a_stopped_run_goes_on_bit_for_bit(tiny: MakeStudent, tmp_path: Path) -> None:
    rich = [
        "train.accumulate=2", "augment.mixup=0.8", "augment.cutmix=1.0", "augment.erasing=0.25",
        "augment.repeats=3", "train.ema_decay=0.9", "train.clip_norm=1.0", "seed=3",
    ]  # fmt: skip
    whole = tiny(*rich, "train.checkpoint_every=1000", arm="vkd_whitening")
    train(whole, tmp_path / "whole")
    stopping = tiny(*rich, "train.checkpoint_every=7", arm="vkd_whitening")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", _dies_at(9))
        with pytest.raises(ZeroDivisionError):
            train(stopping, tmp_path / "stopped")
    assert int(Run(tmp_path / "stopped").checkpoints()[-1].stem) < 9
    train(stopping, tmp_path / "stopped", resume=True)
    assert_identical(tmp_path / "whole", tmp_path / "stopped")


def _dies_at(number: int) -> Any:
    step = Learner.step

    def dying(self: Learner, batch: Any, now: int) -> Any:
        if now == number:
            raise ZeroDivisionError
        return step(self, batch, now)

    return dying


def test_the_number_of_workers_changes_nothing(tiny: MakeStudent) -> None:
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


def test_repeated_augmentation_shows_an_image_thrice(tiny: MakeStudent) -> None:
    settings = tiny("train.batch_size=30", "augment.repeats=3")
    order = Feed(settings, load_training_images(settings.data), "cpu").order
    rows = [row for n in range(3) for row in order(n)]
    counts = torch.tensor([index for _, index in rows]).bincount(minlength=100)
    assert sorted(set(counts.tolist())) == [0, 3]
    assert len({key for key, _ in rows}) == 90  # differently augmented


@pytest.mark.parametrize("unit", ["epochs", "updates"])
def test_the_schedule_is_timms(tiny: MakeStudent, unit: str) -> None:
    settings = tiny(f"train.schedule={unit}", "train.epochs=12", "train.warmup_epochs=3")
    ours, theirs = (torch.optim.SGD([torch.zeros(1, requires_grad=True)], settings.lr)
                    for _ in range(2))  # fmt: skip
    rate = Rate(ours, settings.train, 5)
    reference, epochs = create_scheduler_v2(
        theirs, "cosine", 12, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=3,
        step_on_epochs=unit == "epochs", updates_per_epoch=5,
    )  # fmt: skip
    assert epochs == 12
    for update in range(60):
        rate.set(update)
        if unit == "epochs":
            reference.step(update // 5)
        else:
            reference.step_update(update)
        assert rate.now == theirs.param_groups[0]["lr"]
    rate.factor = 0.5
    rate.set(7)
    halved = rate.now
    rate.factor = 1.0
    rate.set(7)
    assert halved == rate.now / 2


def learner_of(settings: Any) -> tuple[Learner, Feed]:
    feed = Feed(settings, load_training_images(settings.data), "cpu")
    teachers = [load_recogniser(n, 32, "cpu") for n in settings.teachers.values()]
    torch.manual_seed(0)
    student = build_student(settings.student, 10, len(teachers))
    return Learner(settings, student, teachers, feed.per_epoch, "cpu"), feed


def test_rate_and_average_in_training_are_timms(tiny: MakeStudent) -> None:
    settings = tiny("train.ema_decay=0.9", "train.schedule=updates")
    learner, feed = learner_of(settings)
    average = ModelEmaV3(learner.student.network, 0.9)
    reference, _ = create_scheduler_v2(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], settings.lr), "cosine", 3,
        min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=1, step_on_epochs=False, updates_per_epoch=5,
    )  # fmt: skip
    for number in range(7):
        learner.step(feed(number), number)
        average.update(learner.student.network)
        reference.step_update(number)
        assert learner.rate.now == reference.optimizer.param_groups[0]["lr"]
    assert learner.average is not None
    states = average.module.state_dict(), learner.average.module.state_dict()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


PLAIN_UPDATES = ["student.drop_path=0", "train.warmup_epochs=0", "train.lr=1e-2",
                 "train.teacher_precision=float32"]  # fmt: skip


def gradients(settings: ClassifierSettings, transform: Any = None) -> list[float]:
    """Those of three updates in float64, where rounding does not grow."""
    learner, feed = learner_of(settings)
    for network in (learner.student, learner.objective, *learner.teachers):
        network.double()
    if transform is not None:
        feed.transform, feed.resident = transform, None

    def doubled(number: int) -> Batch:
        batch = feed(number)
        return batch._replace(images=batch.images.double())

    found = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            found.extend([p.grad.flatten() for p in group["params"]])

    learner.optimizer.register_step_pre_hook(note)
    for number in range(3):
        learner.step(doubled(number), number)
    return torch.cat(found).tolist()


def test_accumulation_is_the_whole_batch(tiny: MakeStudent) -> None:
    whole, halves = (
        gradients(tiny(*PLAIN_UPDATES, f"train.accumulate={parts}"), timm.data.create_transform(32))
        for parts in (1, 2)
    )
    assert halves == pytest.approx(whole, abs=1e-9, rel=0)


def test_mixed_images_are_the_same_in_parts(tiny: MakeStudent) -> None:
    mixing = ["augment.mixup=0.8", "augment.cutmix=1.0"]
    whole, halves = (
        gradients(tiny(*PLAIN_UPDATES, *mixing, f"train.accumulate={parts}")) for parts in (1, 2)
    )
    assert halves == pytest.approx(whole, abs=1e-9, rel=0)


def test_a_run_may_go_on_in_smaller_parts(tiny: MakeStudent, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", _dies_at(7))
        with pytest.raises(ZeroDivisionError):
            train(tiny("train.checkpoint_every=5"), tmp_path / "run")
    train(tiny("train.checkpoint_every=5", "train.accumulate=2"), tmp_path / "run", resume=True)
    assert Run(tmp_path / "run").records("metrics")[-1]["epoch"] == 3


def test_a_gradient_that_is_not_finite_is_told_before_a_checkpoint_keeps_what_it_did(
    tiny: MakeStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Learner.losses

    def steep(self: Learner, part: Any, number: int) -> Any:
        told = losses(self, part, number)
        if number == 5:  # a finite value whose slope is none
            told["label_loss"] = told["label_loss"] + (told["label_loss"] * 0).sqrt()
        return told

    monkeypatch.setattr(Learner, "losses", steep)
    with pytest.raises(VkdError, match="gradient_norm is not finite at iteration 6") as caught:
        train(tiny("train.checkpoint_every=3"), tmp_path / "run")
    assert "the last good checkpoint" in str(caught.value)
    assert Run(tmp_path / "run").checkpoints()[-1].stem <= "00000005"


RELATING = ["objective.features={method: spkd, projection: orthogonal, normalization: layer_norm}"]


def _gradients_on(rank: int, world: int, text: str, file: str, queue: Any) -> None:
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    queue.put((rank, gradients(ClassifierSettings.model_validate(yaml.safe_load(text)))))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("relating", [False, True])
def test_two_ranks_update_as_one(relating: bool, tiny: MakeStudent, tmp_path: Path) -> None:
    settings = tiny(*PLAIN_UPDATES, *(RELATING if relating else []))
    alone = gradients(settings)
    found = on_ranks(2, _gradients_on, settings.dump(), str(tmp_path / "meet"))
    assert found[0] == found[1]
    assert found[0] == pytest.approx(alone, abs=1e-9, rel=0)


def test_dearkd_leaves_its_teacher(tiny: MakeStudent, tmp_path: Path) -> None:
    train(tiny("train.epochs=5", arm="dearkd"), tmp_path / "run")
    records = [r for r in Run(tmp_path / "run").records("metrics") if "label_loss" in r]
    assert ["early_loss" in record for record in records] == [True] * 20 + [False] * 5


def test_measure_counts_as_timm_does(tiny: MakeStudent) -> None:
    settings = tiny("evaluate.batch_size=64")
    heldout = load_heldout_images(settings.data, None)
    assert heldout is not None
    torch.manual_seed(0)
    student = build_student(settings.student, 10, 1).eval()
    result = measure(student, settings, heldout, "cpu")
    images = heldout.pixels.float() / 255  # type: ignore[attr-defined]
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (settings.data.mean, settings.data.std))
    with torch.no_grad():
        logits = student((images - mean) / std)
    first, among = accuracy(logits, heldout.labels, (1, 5))
    assert result["top1"] == pytest.approx(float(first), abs=1e-4)
    assert result["top5"] == pytest.approx(float(among), abs=1e-4)
    assert result["images"] == len(heldout.labels)


def _measured_on(rank: int, world: int, folder: str, text: str, file: str, queue: Any) -> None:
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    settings = ClassifierSettings.model_validate(yaml.safe_load(text))
    student, facts = read_student(Path(folder))
    heldout = load_heldout_images(settings.data, facts["classes"])
    assert heldout is not None
    part = ranks.own_part(len(heldout.labels))
    result = measure(student, settings, heldout, "cpu")
    queue.put((rank, (part.stop - part.start, result)))
    torch.distributed.destroy_process_group()


def test_two_ranks_measure_what_one_measures(tiny: MakeStudent, tmp_path: Path) -> None:
    settings = tiny()
    train(settings, tmp_path / "run")
    alone = evaluate_run(tmp_path / "run", settings)
    found = on_ranks(
        2, _measured_on, str(tmp_path / "run"), settings.dump(), str(tmp_path / "meet")
    )
    for _, result in found.values():
        assert result == {key: alone[key] for key in result}
    assert found[0][0] + found[1][0] == alone["images"]
    assert found[0][0] != found[1][0]  # 297 images: a part more for one
    record = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text())
    assert record["top1"] == alone["top1"]


def test_numbers_that_are_not_finite_name_their_remedy(tiny: MakeStudent, tmp_path: Path) -> None:
    with pytest.raises(VkdError, match=r"not finite at iteration \d+.*a smaller") as caught:
        train(tiny("train.lr=1e30", "train.warmup_epochs=0"), tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arm", "overrides", "fault"),
    [
        ("vkd", ["teachers.resnet56={name: cifar_resnet57}"], "unknown network"),
        ("vkd", ["teachers.resnet56.layer=layer9"], "has no layer 'layer9'"),
        ("vkd", ["train.batch_size=200"], "more than an epoch of the 100 there are has"),
        ("vkd", ["augment.mixup=0.8", "train.batch_size=25"], "must have an even number"),
        (
            "vkd",
            ["augment.repeats=3", "data.num_images=300", "train.batch_size=290"],
            "more than an epoch of the 300",
        ),
        ("dearkd", ["objective.early.student=blocks.9"], "no layer 'blocks.9'"),
        ("dearkd", ["objective.early.teacher.layer=linear"], "layer linear is no map"),
        ("vkd", ["objective.features.projection=identity"], "objective:"),
        ("vkd", ["train.accumulate=3"], "cannot share it evenly"),
        ("vkd", ["objective.features={method: spkd}", "train.accumulate=2"], "relates the samples"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_work(
    arm: str, overrides: list[str], fault: str, tiny: MakeStudent, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=fault) as caught:
        train(tiny(*overrides, arm=arm), tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run" / "settings.yaml").exists()


def test_a_teacher_of_other_classes_is_refused(
    tiny: MakeStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "images"
    settings = tiny()
    images = load_training_images(settings.data)
    for i in range(20):
        folder = source / f"{int(images.labels[i]) % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        images.image(i).save(folder / f"{i}.png")
    with pytest.raises(SettingsError, match="predicts 10 classes, the images have 3"):
        train(
            tiny(f"data.source={source}", "data.num_images=null", "data.heldout=null"),
            tmp_path / "run",
        )


def test_a_run_without_heldout_images_still_leaves_its_student(
    tiny: MakeStudent, tmp_path: Path
) -> None:
    settings = tiny("data.heldout=null", "train.epochs=1", arm="plain")
    train(settings, tmp_path / "run")
    assert read_student(tmp_path / "run")[1]["tokens"] == 0
    with pytest.raises(SettingsError, match="nothing to measure on"):
        evaluate_run(tmp_path / "run", settings)


def test_restoring_gives_back_all_that_is_trained(tiny: MakeStudent, tmp_path: Path) -> None:
    settings = tiny("train.epochs=1", "train.ema_decay=0.5")
    train(settings, tmp_path / "run")
    learner, _ = learner_of(settings)
    progress = restore(Run(tmp_path / "run"), learner, settings, "cpu")
    assert progress is not None
    assert progress.iteration == progress.total == 5

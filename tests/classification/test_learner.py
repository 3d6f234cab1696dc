"""The update of a student: schedule, EMA, accumulation and ranks."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

from classification.epochs.schedule import Rate
from classification.recognition import learner as learner_module
from classification.recognition.data.feed import Batch
from classification.recognition.learner import make_mix
from classification.recognition.run import Run
from classification.recognition.settings import ClassifierSettings
from gan_vkd.runtime import precision
from gan_vkd.runtime.progress import Progress, RunState
from tests.classification.conftest import MakeStudent, learner_of
from tests.processes import on_ranks
from tests.states import flat


@pytest.mark.parametrize("unit", ["epochs", "updates"])
def test_the_schedule_is_that_of_timm(tiny: MakeStudent, unit: str) -> None:
    settings = tiny(
        f"train.schedule={unit}", "train.epochs=12", "train.warmup_epochs=3",
        "train.cooldown_epochs=2",
    )  # fmt: skip
    ours, theirs = (torch.optim.SGD([torch.zeros(1, requires_grad=True)], settings.lr)
                    for _ in range(2))  # fmt: skip
    rate = Rate(ours, settings.train, 5)
    reference, epochs = create_scheduler_v2(
        theirs, "cosine", 10, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=3, cooldown_epochs=2,
        step_on_epochs=unit == "epochs", updates_per_epoch=5,
    )  # fmt: skip
    assert epochs == 12
    for update in range(60):
        rate.set(update)
        if unit == "epochs":
            assert rate.now == theirs.param_groups[0]["lr"]
            if update % 5 == 4:
                reference.step(update // 5)  # by the number of the epoch that has ended, as in DeiT
        else:
            reference.step_update(update)
            assert rate.now == theirs.param_groups[0]["lr"]
    rate.factor = 0.5
    rate.set(7)
    halved = rate.now
    rate.factor = 1.0
    rate.set(7)
    assert halved == rate.now / 2


def test_a_resumed_student_keeps_the_precisions_that_auto_chose(
    tiny: MakeStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda kind: True)
    monkeypatch.setattr(precision, "_supports", lambda kind, name: True)
    monkeypatch.setattr(precision, "_bfloat16_is_faster", lambda width: True)
    learner, _ = learner_of(tiny("train.precision=auto", "train.teacher_precision=float32"))
    state = learner.state()
    assert (state["precision"], state["teacher_precision"]) == ("bfloat16", "float32")
    monkeypatch.setattr(precision, "_bfloat16_is_faster", lambda width: False)
    auto = tiny("train.precision=auto", "train.teacher_precision=auto")
    resumed, _ = learner_of(auto)
    assert resumed.precision == resumed.teacher_precision == "float32"
    resumed.load_state(state)
    assert (resumed.precision, resumed.teacher_precision) == ("bfloat16", "float32")


def test_learning_rate_and_ema_in_training_are_those_of_timm(tiny: MakeStudent) -> None:
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
    assert learner.ema is not None
    states = average.module.state_dict(), learner.ema.module.state_dict()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_weight_decay_spares_gains_biases_positions_and_the_objective(
    tiny: MakeStudent,
) -> None:
    learner, _ = learner_of(tiny("train.weight_decay=0.07", arm="dearkd"))
    names = {p: name for name, p in learner.student.network.named_parameters()}
    decays = {}
    for group in learner.optimizer.param_groups:
        for p in group["params"]:
            decays[names.get(p, "thrown away")] = group["weight_decay"]
    assert decays.keys() == {*names.values(), "thrown away"}
    for name, decay in decays.items():
        spared = name.endswith(("bias", "_token", "pos_embed", "thrown away")) or "norm" in name
        assert decay == (0 if spared else 0.07), name


def test_weight_decay_of_projections_is_a_setting(tiny: MakeStudent) -> None:
    linear = "objective.features.method.projection=linear"
    learner, feed = learner_of(tiny("train.projection_weight_decay=0.03", linear, arm="vkd"))
    (group,) = [x for x in learner.optimizer.param_groups if x["weight_decay"] == 0.03]
    assert [p.shape for p in group["params"]] == [(64, 24)]
    bases = []
    for decay in (0, 1e3):  # of no effect on a projection that is moved by its tangent
        learner, feed = learner_of(tiny(f"train.projection_weight_decay={decay}", arm="vkd"))
        for number in range(3):
            learner.step(feed(number), number)
        bases.append(learner.objective.features[0].project.base)
    assert torch.equal(*bases)


def test_the_gradient_norm_is_clipped(tiny: MakeStudent) -> None:
    learner, feed = learner_of(tiny("train.clip_norm=1e-3"))
    found: list[torch.Tensor] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        learnt = [p for group in optimizer.param_groups for p in group["params"]]
        found.append(torch.nn.utils.get_total_norm([p.grad for p in learnt if p.grad is not None]))

    learner.optimizer.register_step_pre_hook(note)
    logged = learner.step(feed(0), 0)
    assert float(found[0]) == pytest.approx(1e-3, rel=1e-3)
    assert float(logged["gradient_norm"]) > 1e-2, "the norm before clipping"


def test_labels_are_smoothed_and_mixing_is_that_of_timm(
    tiny: MakeStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 1, 4]))
    images, targets = make_mix(tiny("augment.smoothing=0.3"), 5)(batch)
    assert images is batch.images
    expected = torch.full((4, 5), 0.06).scatter(1, batch.labels[:, None], 0.7 + 0.06)
    torch.testing.assert_close(targets, expected)

    options_of_mixup: dict[str, Any] = {}
    monkeypatch.setattr(learner_module, "Mixup", lambda **options: options_of_mixup.update(options))
    make_mix(
        tiny("augment.mixup=0.1", "augment.cutmix=0.2", "augment.mix_probability=0.3",
             "augment.switch_probability=0.4", "augment.smoothing=0.5"), 5,
    )  # fmt: skip
    assert options_of_mixup == {
        "mixup_alpha": 0.1, "cutmix_alpha": 0.2, "prob": 0.3, "switch_prob": 0.4,
        "label_smoothing": 0.5, "num_classes": 5,
    }  # fmt: skip


def test_teachers_get_images_in_their_own_normalisation(tiny: MakeStudent) -> None:
    settings = tiny("data.mean=[0.1, 0.2, 0.3]", "data.std=[0.4, 0.5, 0.6]",
                    "train.teacher_precision=float32", arm="dearkd")  # fmt: skip
    learner, feed = learner_of(settings)
    images = feed(0).images
    (outputs,) = learner.teacher_outputs(images)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (settings.data.mean, settings.data.std))
    raw = images * std + mean
    network = learner.teachers[0].network
    x = (raw - 0.5) / 0.5  # as `vkd teach` trains
    torch.testing.assert_close(outputs.logits, network(x))
    torch.testing.assert_close(outputs.logits, network.linear(outputs.features))
    maps = network.layer1(torch.relu(network.bn1(network.conv1(x))))
    torch.testing.assert_close(outputs.early, maps)


def test_a_checkpoint_restores_the_whole_state(tiny: MakeStudent, tmp_path: Path) -> None:
    settings = tiny("train.ema_decay=0.5", arm="vkd_whitening")
    (learner, feed), (other, _) = learner_of(settings), learner_of(settings)
    for number in range(2):
        learner.step(feed(number), number)
    run = Run(tmp_path / "run")
    data = "100 images", "digest"
    saved, restored = (RunState(run, x, settings, "cpu", data) for x in (learner, other))
    saved.progress = Progress(iteration=2, total=15)
    saved.save()
    restored.restore()
    assert (restored.progress.iteration, restored.progress.total) == (2, 15)
    for trained in (learner, other):
        trained.rate.set(2)  # of the next update, by the settings
    ours, theirs = flat(learner.state()), flat(other.state())
    assert ours.keys() == theirs.keys()
    watched = learner.decompositions()
    assert any(name.startswith("objective.") and ".normalize." in name for name in watched)
    for name, value in ours.items():
        same = torch.equal(value, theirs[name]) if torch.is_tensor(value) else value == theirs[name]
        assert same, name


PLAIN_UPDATES = ["student.drop_path=0", "train.warmup_epochs=0", "train.lr=1e-2",
                 "train.teacher_precision=float32"]  # fmt: skip


def gradients(settings: ClassifierSettings, transform: Any = None) -> list[float]:
    """Returns the gradients of three updates in float64, so that rounding stays small."""
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


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny: MakeStudent) -> None:
    whole, halves = (
        gradients(tiny(*PLAIN_UPDATES, f"train.accumulate={parts}"), timm.data.create_transform(32))
        for parts in (1, 2)
    )
    assert halves == pytest.approx(whole, abs=1e-9, rel=0)


def test_mixing_does_not_depend_on_accumulation(tiny: MakeStudent) -> None:
    mixing = ["augment.mixup=0.8", "augment.cutmix=1.0"]
    whole, halves = (
        gradients(tiny(*PLAIN_UPDATES, *mixing, f"train.accumulate={parts}")) for parts in (1, 2)
    )
    assert halves == pytest.approx(whole, abs=1e-9, rel=0)


RELATING = ["objective.features={method: spkd}"]


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

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_vkd import training
from gan_vkd.game.trainer import Trainer
from gan_vkd.run import Run
from gan_vkd.runtime import stopping
from gan_vkd.runtime.checkpoint import load_state, save_state
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.meter import Meter
from gan_vkd.training import Game, train
from tests.conftest import MakeSettings, Trained, small_disk
from tests.resuming import assert_resumes_identically, stop_in
from tests.states import assert_identical

LOOKED_UP = (
    "distill.view=clean", "distill.images=real",
    "distill.method.normalization.statistics=training_set",
    "data.flip=true",
)  # fmt: skip
BALANCED = (
    "distill.student.scaling=batch", "distill.weight=auto", "distill.aggregated=1",
    "train.precision=bfloat16",
)  # fmt: skip
LAYERS = ("distill.pairs=[{student: {layer: blocks.1.0}, teacher: {layer: layer2}}, {}]",)


@pytest.mark.parametrize(
    ("arm", "overrides"),
    [
        ("none", ()),
        ("layernorm", ()),
        ("whitening", ()),
        ("whitening", LOOKED_UP),
        ("whitening", BALANCED),
        ("whitening", LAYERS),
    ],
    ids=["none", "layernorm", "whitening", "looked_up", "balanced", "layers"],
)
def test_a_resumed_run_is_bit_identical(
    arm: str, overrides: tuple[str, ...], small: MakeSettings, tmp_path: Path
) -> None:
    stopped = assert_resumes_identically(small(*overrides, arm=arm), tmp_path, stop=2)
    assert stopped.exit_code == 143
    assert "iteration 3 of 6" in str(stopped)


def test_another_seed_gives_another_generator(small: MakeSettings, tmp_path: Path) -> None:
    pictures = []
    for seed in (0, 1):
        train(small("train.iterations=1", f"seed={seed}", arm="none"), tmp_path / str(seed))
        generator, _ = Run(tmp_path / str(seed)).load_generator("cpu")
        latents, labels = torch.ones(1, generator.z_dim), torch.zeros(1, dtype=torch.int64)
        pictures.append(generator(latents, labels))
    assert not torch.equal(*pictures)


def test_a_killed_run_resumes_from_its_last_checkpoint(
    small: MakeSettings, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records after the checkpoint are dropped, so that none appears twice."""
    with monkeypatch.context() as patch:
        patch.setattr(Game, "step", _dies_at(4))
        with pytest.raises(ZeroDivisionError):
            train(small(), tmp_path / "killed")
    train(small(), tmp_path / "killed", resume=True)
    assert_identical(trained(), tmp_path / "killed")


def test_a_checkpoint_of_another_version_is_refused(
    small: MakeSettings, trained: Trained, tmp_path: Path
) -> None:
    shutil.copytree(trained(), tmp_path / "run")
    for file in Run(tmp_path / "run").checkpoints():
        state = load_state(file)
        del state["trained"]["augment"]
        save_state(file, state)
    with pytest.raises(VkdError, match="checkpoint is of another version") as caught:
        train(small("train.iterations=9"), tmp_path / "run", resume=True)
    assert len(str(caught.value).splitlines()) == 1


def _dies_at(iteration: int) -> Any:
    step = Game.step

    def dying(self: Game, done: int, meter: Meter) -> None:
        if done == iteration:
            raise ZeroDivisionError
        step(self, done, meter)

    return dying


def test_an_interrupted_evaluation_is_repeated(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    settings = small("evaluate.every=2")
    train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_in(patch, 3, signal.SIGTERM)
        evaluate = training.Evaluator.__call__
        calls = iter([evaluate, killed])
        patch.setattr(training.Evaluator, "__call__", lambda *a: next(calls)(*a))
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "run")
    assert Run(tmp_path / "run").checkpoints()[-1].stem == "00000004"
    train(settings, tmp_path / "run", resume=True)
    assert_identical(tmp_path / "whole", tmp_path / "run")


def test_a_run_killed_in_its_last_evaluation_is_unfinished(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        stop_in(patch, 5, signal.SIGTERM)
        patch.setattr(training.Evaluator, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            train(small("evaluate.every=6"), tmp_path / "run")
    train(small(), tmp_path / "run", resume=True)
    assert "judges" in Run(tmp_path / "run").records("metrics")[-1]


def test_a_second_interrupt_stops_immediately(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "SECOND", 0)
    stop_in(monkeypatch, 2, signal.SIGINT, signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)  # ignored in a background job
    with pytest.raises(KeyboardInterrupt):
        train(small(), tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_record_has_the_means_since_the_previous_one(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    g_losses: list[float] = []
    step = Trainer.update_generator

    def noting(self: Trainer, *args: Any) -> dict[str, Tensor]:
        losses = step(self, *args)
        g_losses.append(float(losses["g_loss"].detach()))
        return losses

    monkeypatch.setattr(Trainer, "update_generator", noting)
    train(small("train.log_every=4", "train.checkpoint_every=3", arm="none"), tmp_path / "run")
    means = [r["g_loss"] for r in Run(tmp_path / "run").records("metrics") if "g_loss" in r]
    assert means == pytest.approx([sum(g_losses[:4]) / 4, sum(g_losses[4:]) / 2], rel=1e-5)


def test_a_time_limit_ends_a_run_with_a_checkpoint(
    small: MakeSettings, trained: Trained, tmp_path: Path
) -> None:
    for done in (1, 2):
        with pytest.raises(stopping.Stopped, match="out of time at iteration") as stopped:
            train(small(), tmp_path / "run", resume=True, max_time=0)
        assert stopped.value.exit_code == 124
        assert int(Run(tmp_path / "run").checkpoints()[-1].stem) == done
        assert (tmp_path / "run" / "exit_code").read_text() == "124\n"
    train(small(), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "exit_code").read_text() == "0\n"
    assert_identical(trained(), tmp_path / "run")


def test_a_folder_in_use_is_refused(small: MakeSettings, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.locked(), pytest.raises(VkdError, match="in use by process"):
        train(small(), run.path)
    train(small("train.iterations=1"), run.path)


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: x"), MemoryError(),
              torch.OutOfMemoryError("x")],
)  # fmt: skip
def test_out_of_memory_is_a_one_line_error(
    error: Exception, small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise error

    monkeypatch.setattr(Trainer, "update_generator", full)
    with pytest.raises(VkdError, match="set a smaller") as caught:
        train(small(arm="none"), tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1


def test_a_full_disk_keeps_the_last_checkpoint(
    small: MakeSettings, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, sizes = Run.save, []

    def saving(self: Run, iteration: int, *args: Any) -> None:
        if iteration < 4:
            return save(self, iteration, *args)
        with small_disk(20_000):
            sizes.append(iteration)
            return save(self, iteration, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", saving)
        with pytest.raises(VkdError, match=r"00000004\.safetensors: cannot be written"):
            train(small(), tmp_path / "run")
    assert sizes == [4]
    assert [f.stem for f in Run(tmp_path / "run").checkpoints()] == ["00000002", "00000003"]
    train(small(), tmp_path / "run", resume=True)
    assert_identical(trained(), tmp_path / "run")


def test_the_meter_averages_since_the_last_record() -> None:
    meter = Meter()
    meter.add({"loss": torch.tensor(float("inf"))})
    assert meter.take() == {"loss": float("inf")}
    meter.add({"loss": torch.tensor(4.0), "other": torch.tensor(1.0)})
    meter.add({"loss": torch.tensor(2.0)})
    assert meter.take() == {"loss": 3.0, "other": 1.0}
    assert meter.take() == {}


def test_the_best_generator_is_exported(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distances = iter([3.0, 1.0, 2.0])
    measured: list[dict[str, Tensor]] = []

    def measure(self: Any, generator: torch.nn.Module, shares: list[float]) -> dict[str, Any]:
        measured.append({k: v.clone() for k, v in generator.state_dict().items()})
        found = {"frechet": next(distances), "kernel": 0.0}
        return {"judges": [self.extractor.described | found], "warnings": []}

    monkeypatch.setattr(training.Evaluator, "__call__", measure)
    train(small("evaluate.every=2"), tmp_path / "run")
    generator, facts = Run(tmp_path / "run").load_generator("cpu")
    assert facts["iteration"] == 4
    assert all(torch.equal(v, measured[1][k]) for k, v in generator.state_dict().items())
    assert not torch.equal(measured[1]["linear.weight"], measured[2]["linear.weight"])


def test_a_run_folder_has_all_documented_files(small: MakeSettings, tmp_path: Path) -> None:
    train(small("train.sample_every=3"), tmp_path)
    run = Run(tmp_path)
    assert run.settings() == small("train.sample_every=3")
    assert [p.name for p in sorted((tmp_path / "samples").iterdir())] == [
        "00000003.png",
        "00000006.png",
    ]
    measured = [r for r in run.records("metrics") if "judges" in r]
    best = min(measured, key=lambda r: r["judges"][0]["frechet"])
    others = [written for written in (2, 3, 4, 6) if written != best["iteration"]]
    assert {int(f.stem) for f in run.checkpoints()} == {best["iteration"], *others[-2:]}
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [r["iteration"] for r in records if "d_loss" in r]
    assert losses == [1, 2, 3, 4, 5, 6]
    assert [r["iteration"] for r in records if "judges" in r] == [3, 6]
    assert any((tmp_path / "tensorboard").iterdir())
    assert not list(tmp_path.rglob(".*tmp*"))


def test_tensorboard_holds_the_scalars_and_the_grid(trained: Trained) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained() / "tensorboard"))
    events.Reload()
    written = {e.step: e.value for e in events.Scalars("train/d_loss")}
    recorded = {
        r["iteration"]: r["d_loss"] for r in Run(trained()).records("metrics") if "d_loss" in r
    }
    assert written == pytest.approx(recorded)
    assert "samples" in events.Tags()["images"]


def test_an_existing_run_is_not_overwritten(small: MakeSettings, trained: Trained) -> None:
    with pytest.raises(SettingsError, match="holds a run already"):
        train(small(), trained())
    with pytest.raises(SettingsError, match=r"train\.batch_size: 8 -> 10"):
        train(small("train.batch_size=10"), trained(), resume=True)


def test_a_finished_run_is_skipped_and_may_be_lengthened(
    small: MakeSettings, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained(), tmp_path / "a")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")}
    train(small(), tmp_path / "a", resume=True)
    assert "finished already" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")}
    train(small("train.iterations=9"), tmp_path / "a", resume=True)
    assert int(Run(tmp_path / "a").checkpoints()[-1].stem) == 9


def test_cached_features_do_not_change_a_run(small: MakeSettings, tmp_path: Path) -> None:
    kept = f"cache={tmp_path / 'cache'}"
    train(small(*LOOKED_UP), tmp_path / "a")
    train(small(*LOOKED_UP, kept), tmp_path / "b")
    written = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "cache").iterdir()}
    train(small(*LOOKED_UP, kept), tmp_path / "c")
    assert {f.name: f.stat().st_mtime_ns for f in (tmp_path / "cache").iterdir()} == written
    assert_identical(tmp_path / "a", tmp_path / "b")
    assert_identical(tmp_path / "a", tmp_path / "c")
    train(small(*LOOKED_UP), tmp_path / "c", resume=True)  # the cache folder may change


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            "{student: {layer: blocks}}",
            "distill: the last forward did not reach the layer 'blocks'",
        ),
        ("{student: {layer: blok}}", "distill: the network has no layer 'blok'; it has blocks,"),
        ("{student: {layer: blocks.1.0, pool: first}}", "distill: cannot pool features of shape"),
        ("{teacher: {layer: layer4}}", "the network has no layer 'layer4'; it has conv1,"),
    ],
)
def test_an_unreadable_layer_is_a_one_line_error_before_the_run_starts(
    pair: str, message: str, small: MakeSettings, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        train(small(f"distill.pairs=[{pair}]"), tmp_path / "run")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run" / "settings.yaml").exists()


def test_flat_folders_are_unconditional(small: MakeSettings, tmp_path: Path) -> None:
    from gan_vkd.report.pictures import save_png

    for i in range(20):
        save_png(torch.randint(256, (3, 32, 32), dtype=torch.uint8), tmp_path / "flat" / f"{i}.png")
    flat_set = [
        f"data.source={tmp_path / 'flat'}",
        "data.num_images=null",
        "evaluate.reference=train",
    ]
    with pytest.raises(SettingsError, match=r"needs two class folders, .*no class folders"):
        train(small(*flat_set, "data.conditional=true"), tmp_path / "a")
    one = [*flat_set, f"data.source={tmp_path}", "data.conditional=true"]
    with pytest.raises(SettingsError, match="has one class folder, 'flat'"):
        train(small(*one), tmp_path.with_name("one"))
    train(small(*flat_set), tmp_path / "b")
    generator, facts = Run(tmp_path / "b").load_generator("cpu")
    assert generator.classes == 0
    assert facts["shares"] == [1.0]
    train(small("data.conditional=false"), tmp_path / "c")
    assert Run(tmp_path / "c").load_generator("cpu")[0].classes == 0

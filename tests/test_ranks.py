"""W ranks compute what one process computes on the whole batch."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_vkd.data.batches import Batches
from gan_vkd.data.sets import load_training_set
from gan_vkd.evaluation.record import distances
from gan_vkd.game.build import build_trainer
from gan_vkd.game.settings import Settings
from gan_vkd.networks.biggan import Generator
from gan_vkd.run import Run
from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import VkdError
from gan_vkd.teachers.features import load_bank
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.training import train
from tests.conftest import MakeSettings, evaluator_of, until
from tests.processes import on_ranks, ranks_of
from tests.states import assert_identical

STEPS = 10


def alone() -> bool:
    return not torch.distributed.is_initialized()


# collective functions


def _refusal(check: Callable[[], None]) -> str:
    try:
        check()
    except VkdError as error:
        return str(error)
    return ""


def _functions(rank: int, world: int, file: str, queue: Any) -> None:
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    torch.manual_seed(0)
    x = torch.arange(3.0, requires_grad=True)
    y = (torch.arange(2.0) + 10 * rank).requires_grad_()
    mean = ranks.mean((rank + 1) * x)
    (mean * torch.arange(3.0)).sum().backward()
    gathered = ranks.gather(y[:, None])
    (gathered.squeeze(1) * torch.arange(2.0 * world)).sum().backward()
    parameter = torch.zeros(2, requires_grad=True)
    parameter.grad = torch.tensor([1.0, 2.0]) * rank
    ranks.average_gradients([parameter, torch.zeros(1)])
    found = {
        "drawn": ranks.own_rows(torch.rand, 3).tolist(),
        "mean": mean.tolist(),
        "mean gradient": x.grad.tolist(),
        "gathered": gathered.squeeze(1).tolist(),
        "gather gradient": y.grad.tolist(),
        "gradient": parameter.grad.tolist(),
        "part": list(range(7))[ranks.own_part(7)],
        "largest": ranks.largest(rank),
        "from first": ranks.from_first(lambda: {"rank": rank}),
        "all parts": ranks.all_parts(rank * 2),
        "unlike": _refusal(lambda: ranks.require_alike(lambda: rank, Path("run"))),
        "alike": _refusal(lambda: ranks.require_alike(lambda: ["same"], Path("run"))),
    }
    queue.put((rank, found))
    torch.distributed.destroy_process_group()


def test_collective_functions_of_two_ranks(tmp_path: Path) -> None:
    found = on_ranks(2, _functions, str(tmp_path / "meet"))
    torch.manual_seed(0)
    whole = torch.rand(6).tolist()
    assert found[0]["drawn"] + found[1]["drawn"] == whole
    assert found[0]["part"] + found[1]["part"] == list(range(7))
    for rank in (0, 1):
        assert found[rank]["mean"] == [0, 1.5, 3]
        # the losses of both ranks depend on it, with (rank + 1) / 2 each
        assert found[rank]["mean gradient"] == [0, 1.0 * (rank + 1), 2.0 * (rank + 1)]
        assert found[rank]["gathered"] == [0, 1, 10, 11]
        assert found[rank]["gather gradient"] == [2 * 2.0 * rank, 2 * (2.0 * rank + 1)]
        assert found[rank]["gradient"] == [0.5, 1]
        assert found[rank]["largest"] == 1
        assert found[rank]["from first"] == {"rank": 0}
        assert found[rank]["all parts"] == [0, 2]
        assert found[rank]["unlike"] == "run: the ranks have read different settings or images"
        assert found[rank]["alike"] == ""


def test_collective_functions_are_the_identity_in_one_process() -> None:
    x = torch.ones(2)
    assert torch.equal(ranks.mean(x), x)
    assert ranks.total(x) is x
    assert ranks.gather(x) is x
    assert ranks.own_part(5) == slice(0, 5)
    assert ranks.is_first()
    with ranks.joined(), ranks.one_first_on_each_machine():
        assert alone()


# training

VARIANTS = {
    "whitening": [],
    "looked_up": [
        "distill.view=clean",
        "distill.method.normalization.statistics=training_set",
        "data.flip=true",
    ],
    "pkd": ["distill.method=pkd"],
    "kd_dlgm": ["distill.method=kd_dlgm"],
    "balanced": [
        "distill.weight=auto",
        "distill.student.scaling=batch",
        "distill.aggregated=0.1",
        "distill.method.normalization.statistics=batch",
    ],
    "vicreg_real": ["distill.method=vicreg", "distill.images=real", "distill.weight=0.1"],
    "stylegan2": [
        "model={name: stylegan2, channel_base: 64, channel_max: 8, z_dim: 8, w_dim: 8}",
        "adversary=non_saturating",
        "regularize={r1: auto, r1_every: 2, path_length: 2, path_length_every: 2}",
    ],
    "r3gan": [
        "model={name: r3gan, channel_base: 256, channel_max: 8, group_width: 4, z_dim: 8}",
        "adversary=relativistic",
        "augment=[{name: ada, p: 0.5, ramp: 0.05}]",
        "regularize={r1: 2, r2: {start: 2, end: 1, iterations: 3}, r1_every: 1}",
    ],
    "regularized": [
        "regularize={lecam: 0.3, lecam_start: 0, consistency: 2, r1: 0.5, r1_every: 4}",
        "augment=[color, translation, cutout]",
    ],
}


def _train_on_rank(
    rank: int, world: int, file: str, variants: dict[str, Settings], queue: Any
) -> None:
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    queue.put((rank, {name: losses_of(settings) for name, settings in variants.items()}))
    if world > 1:
        torch.distributed.destroy_process_group()


def losses_of(settings: Settings) -> dict[str, Any]:
    """Returns the losses of STEPS steps, averaged over ranks, and a sample of the EMA generator."""
    assert settings.distill is not None
    torch.set_default_dtype(torch.float32)
    data = load_training_set(settings.data)
    teacher = load_teacher(settings.distill.teacher, 32, "cpu")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    gan = build_trainer(
        settings,
        10,
        "cpu",
        teacher,
        lambda: load_bank(teacher, data, True, None),
        torch.eye(10, 64),
    )
    batches = Batches(data, settings.train.batch_size, flip=True, seed=0, device="cpu")
    size = settings.train.batch_size // ranks.world()
    losses: dict[str, list[float]] = {}

    def note(values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            losses.setdefault(name, []).append(float(ranks.mean(value.detach())))

    for step in range(STEPS):
        batch = batches(step)
        batch = batch._replace(images=batch.images.to(torch.get_default_dtype()))
        note(gan.discriminator_step(batch, batches.random_labels(size), step))
        note(gan.generator_step(batches.random_labels(size), step, batch))
    with torch.no_grad():
        picture = gan.ema.generator(
            torch.ones(1, settings.model.z_dim), torch.zeros(1, dtype=torch.long)
        )
    return {"losses": losses, "picture": picture.numpy()}


@pytest.mark.parametrize("world", [2, 4])
def test_training_on_several_ranks_equals_one_process(
    world: int, small: MakeSettings, tmp_path: Path
) -> None:
    """In float64: Adam's steps do not shrink with their gradients, so rounding grows in float32."""
    common = ["distill.weight=1"]
    chosen = VARIANTS if world == 2 else {"whitening": []}
    variants = {name: small(*common, *own) for name, own in chosen.items()}
    expected = on_ranks(1, _train_on_rank, "", variants)[0]
    found = on_ranks(world, _train_on_rank, str(tmp_path / "meet"), variants)
    for name in variants:
        for rank in range(world):
            losses = found[rank][name]["losses"]
            assert losses.keys() == expected[name]["losses"].keys()
            for kind, values in expected[name]["losses"].items():
                assert losses[kind] == pytest.approx(values, rel=1e-5, abs=1e-5), (name, kind)
            assert abs(found[rank][name]["picture"] - expected[name]["picture"]).max() < 1e-4


def _measure(rank: int, world: int, file: str, settings: Settings, queue: Any) -> None:
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    torch.manual_seed(0)
    generator = Generator(32, 2, 8, 10).eval()
    queue.put((rank, evaluator_of(settings)(generator, [0.1] * 10)))
    if world > 1:
        torch.distributed.destroy_process_group()


def test_an_evaluation_on_two_ranks_equals_one_process(small: MakeSettings, tmp_path: Path) -> None:
    settings = small("evaluate.num_samples=51")  # not divisible by two ranks
    alone = on_ranks(1, _measure, "", settings)[0]
    found = on_ranks(2, _measure, str(tmp_path / "meet"), settings)
    alone = alone | distances(alone)
    identities = [judge["identity"] for judge in alone.pop("judges")]
    for result in found.values():
        measures = result | distances(result)
        assert [judge["identity"] for judge in measures.pop("judges")] == identities
        assert measures.keys() == alone.keys()
        for name, value in alone.items():
            close = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert measures[name] == close, name


# whole runs


class Launched:
    """A run under torchrun, with the process ids of its ranks."""

    def __init__(self, settings: Path, out: Path, *options: str, own: tuple[str, ...] = ()) -> None:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            *options, "-m", "gan_vkd", "train", str(settings), "--out", str(out), "--resume", *own,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/"
        )

    def ranks(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def wait(self) -> str:
        output, _ = self.process.communicate(timeout=300)
        return output


@pytest.fixture
def written(small: MakeSettings, tmp_path: Path) -> Path:
    """Writes settings of a run with a checkpoint every iteration; returns the file."""
    file = tmp_path / "settings.yaml"
    own = "train.checkpoint_every=1", "train.iterations=20", "evaluate.every=10", "seed=3"
    file.write_text(small(*own).dump())
    return file


def trained(settings: Path, out: Path) -> list[str]:
    """Trains on two ranks without torchrun, whose start takes longer; returns their outputs."""
    command = ["-m", "gan_vkd", "train", str(settings), "--out", str(out)]
    ranks = ranks_of(2, command, settings.parent)
    outputs = [rank.wait() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    return outputs


def endless(written: Path) -> Path:
    """Writes the same settings with a number of iterations that is never reached."""
    file = written.with_name("endless.yaml")
    file.write_text(written.read_text().replace("iterations: 20", "iterations: 100000"))
    return file


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_a_restart_after_a_killed_rank_is_bit_identical(written: Path, tmp_path: Path) -> None:
    outputs = trained(written, tmp_path / "whole")
    assert [output.count("2 ranks") for output in outputs] == [1, 0], "only the first rank prints"
    assert not list((tmp_path / "whole").rglob(".*tmp*"))

    killed = Launched(written, tmp_path / "killed", "--max-restarts=1")
    until(lambda: len(Run(tmp_path / "killed").checkpoints()) > 1, 120)
    os.kill(killed.ranks()[1], signal.SIGKILL)
    since = time.monotonic()
    output = killed.wait()
    assert killed.process.returncode == 0, output
    assert time.monotonic() - since < 120
    assert output.count("from iteration 0 of 20") == 1
    assert output.count("2 ranks") == 2, "torchrun resumed it from a checkpoint"
    assert_identical(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_ranks_stop_with_a_checkpoint_when_torchrun_is_killed(
    written: Path, tmp_path: Path
) -> None:
    run = Launched(endless(written), tmp_path / "run")
    until(lambda: len(Run(tmp_path / "run").checkpoints()) > 1, 120)
    ranks = run.ranks()
    assert len(ranks) == 2
    run.process.kill()
    output = run.wait()  # the ranks hold the other end of the pipe
    assert "stopped at iteration" in output
    assert "Traceback" not in output
    assert (tmp_path / "run" / "exit_code").read_text() == "143\n"
    until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), 30)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_a_lost_rank_ends_the_run_within_a_minute(written: Path, tmp_path: Path) -> None:
    run = Launched(endless(written), tmp_path / "run")
    until(lambda: len(Run(tmp_path / "run").checkpoints()) > 1, 120)
    others = run.ranks()
    os.kill(others[1], signal.SIGKILL)
    since = time.monotonic()
    output = run.wait()
    assert time.monotonic() - since < 60
    assert run.process.returncode != 0
    assert not Path(f"/proc/{others[0]}").exists(), output


def test_ranks_stop_together_at_the_time_limit_without_a_restart(
    written: Path, tmp_path: Path
) -> None:
    limit = ("--max-time", "1s")
    run = Launched(endless(written), tmp_path / "run", "--max-restarts=1", own=limit)
    output = run.wait()
    assert run.process.returncode == 0, output
    assert output.count("out of time") == 1
    assert (tmp_path / "run" / "exit_code").read_text() == "124\n"
    assert Run(tmp_path / "run").checkpoints()


def test_a_run_of_two_ranks_may_be_resumed_on_one(
    written: Path, tmp_path: Path, small: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "short.yaml"
    file.write_text(written.read_text().replace("iterations: 20", "iterations: 2"))
    trained(file, tmp_path / "run")
    longer = small("train.checkpoint_every=1", "train.iterations=3", "evaluate.every=10", "seed=3")
    train(longer, tmp_path / "run", resume=True)
    printed = capsys.readouterr().out
    assert "not be identical to the last bit" in printed
    assert "ranks 2 is now 1" in printed


def test_a_batch_not_divisible_by_the_ranks_is_a_one_line_error(
    small: MakeSettings, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(small("train.batch_size=9").dump())
    command = ["-m", "gan_vkd", "train", str(file), "--out", str(tmp_path / "run")]
    for rank in ranks_of(2, command, tmp_path):
        assert "train.batch_size = 9: 2 ranks cannot share it evenly" in rank.wait()
        assert rank.returncode == 2

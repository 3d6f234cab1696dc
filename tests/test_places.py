"""Places of a sweep's runs: several GPUs, several runs on a GPU, and CUDA MPS."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gan_vkd.runtime.errors import VkdError
from gan_vkd.sweep import mps, places
from gan_vkd.sweep.local import sweep
from gan_vkd.sweep.places import Place
from gan_vkd.sweep.plan import Job
from tests.conftest import CONFIGS, until
from tests.conftest import QUICKSTART as ARMS
from tests.fake_run import events

ROOT = CONFIGS.parent


class Daemon:
    """A stand-in for nvidia-cuda-mps-control on the PATH, which keeps a list of its calls."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "calls"
        self.file = folder / "bin" / mps.CONTROL
        self.file.parent.mkdir()
        self.answer()

    def answer(self, start: int = 0, running: bool = False) -> None:
        """Sets the exit code of a start, and whether the user has a daemon."""
        self.file.write_text(f"""#!/bin/sh
if [ "$1" = -d ]; then said=start; code={start}; else read said; code=0; fi
[ "$said" != get_server_list ] || code={0 if running else 1}
echo "$said ${{CUDA_VISIBLE_DEVICES:--}} ${{CUDA_MPS_PIPE_DIRECTORY:--}}" >> {self.log}
exit $code
""")
        self.file.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        """Of each call the command, CUDA_VISIBLE_DEVICES and the folder of the pipes."""
        return [x.split() for x in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    found = Daemon(tmp_path)
    monkeypatch.setenv("PATH", f"{found.file.parent}:{os.environ['PATH']}")
    for name in ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return found


def jobs_on(device: str, count: int = 8) -> list[Job]:
    return [Job(f"{k}", Path(f"{k}"), Path(f"{k}.log"), [], device, False) for k in range(count)]


def placed(monkeypatch, gpus: list[str], jobs: int | None, runs: list[Job]) -> list[Place]:
    monkeypatch.setattr(places, "visible_gpus", lambda: gpus)
    with places.places(jobs, runs) as found:
        return found


def test_without_gpus_one_run_has_the_machine(monkeypatch):
    assert placed(monkeypatch, [], None, jobs_on("auto")) == [Place(1)]
    assert placed(monkeypatch, [], 3, jobs_on("auto")) == [Place(3)]


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_runs_of_a_device_of_their_own_stay_there(monkeypatch, daemon, device):
    runs = [*jobs_on("auto", 2), *jobs_on(device, 2)]
    assert placed(monkeypatch, ["0", "1"], 4, runs) == [Place(4)]
    assert daemon.calls == []


@pytest.mark.parametrize(
    ("gpus", "jobs", "runs", "counts"),
    [(1, None, 8, [4]), (1, None, 3, [3]), (2, None, 8, [4, 4]), (2, None, 5, [3, 2]),
     (3, 2, 8, [1, 1]), (2, 3, 8, [2, 1]), (2, 16, 8, [4, 4]), (1, 1, 8, [1]), (2, None, 1, [1])],
)  # fmt: skip
def test_runs_are_split_among_the_gpus(monkeypatch, daemon, gpus, jobs, runs, counts):
    found = placed(monkeypatch, [str(k) for k in range(gpus)], jobs, jobs_on("auto", runs))
    assert [place.most for place in found] == counts
    shared = [str(k) for k, count in enumerate(counts) if count > 1]
    assert [gpu for said, gpu, _ in daemon.calls if said == "start"] == shared


def test_each_shared_gpu_has_a_daemon_of_its_own_which_is_ended(monkeypatch, daemon, capsys):
    monkeypatch.setattr(places, "visible_gpus", lambda: ["2", "GPU-7f"])
    with places.places(None, jobs_on("cuda")) as found:
        started = [call for call in daemon.calls if call[0] == "start"]
        assert [gpu for _, gpu, _ in started] == ["2", "GPU-7f"]
        pipes = [Path(folder) for *_, folder in started]
        assert len(set(pipes)) == 2
        assert all(folder.is_dir() for folder in pipes)
        for place, gpu, folder in zip(found, ("0", "GPU-7f"), pipes, strict=True):
            assert place.environment == {  # indices are those of the daemon's own list
                "CUDA_VISIBLE_DEVICES": gpu, "CUDA_MPS_PIPE_DIRECTORY": str(folder),
                "CUDA_MPS_LOG_DIRECTORY": str(folder),
            }  # fmt: skip
    ended = [Path(call[2]) for call in daemon.calls if call[0] == "quit"]
    assert sorted(ended) == sorted(pipes)
    assert not any(folder.exists() for folder in pipes)
    assert f"GPU 2: CUDA MPS started, pipes and logs in {pipes[0]}\n" in capsys.readouterr().out


def test_a_daemon_of_the_user_serves_the_runs_and_is_left_alone(monkeypatch, daemon):
    daemon.answer(running=True)
    assert placed(monkeypatch, ["0"], None, jobs_on("auto")) == [Place(4, by_memory=True)]
    assert [said for said, *_ in daemon.calls] == ["get_server_list"]


def test_without_mps_auto_has_one_run_per_gpu_and_a_number_is_kept(monkeypatch, daemon, capsys):
    daemon.answer(start=1)
    assert [p.most for p in placed(monkeypatch, ["0", "1"], None, jobs_on("auto"))] == [1, 1]
    assert f"GPU 1: without CUDA MPS, since {mps.CONTROL} does not start" in capsys.readouterr().out
    daemon.file.unlink()
    found = placed(monkeypatch, ["4", "5"], 5, jobs_on("auto"))
    assert found == [
        Place(3, {"CUDA_VISIBLE_DEVICES": "4"}),
        Place(2, {"CUDA_VISIBLE_DEVICES": "5"}),
    ]
    assert f"GPU 4: without CUDA MPS, since {mps.CONTROL} is not installed\n" in (
        capsys.readouterr().out
    )


def test_the_visible_gpus_are_those_of_the_environment(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert places.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-7f")
    assert places.visible_gpus() == ["3", "GPU-7f"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert places.visible_gpus() == []


def test_a_further_run_waits_until_the_latest_trains_and_fits(monkeypatch, tmp_path):
    asked: list[dict[str, str]] = []
    free = 60

    def memory(environment: dict[str, str]) -> tuple[int, int]:
        asked.append(environment)
        return free, 100

    monkeypatch.setattr(places, "_memory", memory)
    place = Place(3, {"A": "b"}, by_memory=True)
    first, second = (job._replace(folder=tmp_path / job.name) for job in jobs_on("auto", 2))
    assert place.has_room()
    place.add(first)
    assert not place.has_room()
    assert asked == [], "it has written no record yet"
    record = first.folder / "metrics.jsonl"
    record.parent.mkdir()
    record.touch()
    os.utime(record, (1, 1))  # of an earlier start
    assert not place.has_room()
    os.utime(record, (time.time() + 1, time.time() + 1))
    assert place.has_room(), "60 are free, and 1.5 times 40 are needed"
    assert asked == [{"A": "b"}]
    free = 59
    assert not place.has_room()
    assert not place.has_room()
    assert len(asked) == 2, "it is full until a run ends"
    place.remove(first)
    assert place.has_room()
    place.add(second)
    assert not place.has_room()


def test_memory_that_cannot_be_known_has_no_room(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert places._memory({}) == (0, 1)


# sweeps


def test_runs_of_a_sweep_are_spread_over_the_gpus(program, out, monkeypatch, daemon):
    daemon.file.unlink()
    monkeypatch.setattr(places, "visible_gpus", lambda: ["2", "5"])
    for arm in ARMS[:2]:
        (out / f"{arm.stem}_seed0.does").write_text("meet 2")
    sweep(program, ARMS, [0], out, [])
    logs = [(out / f"{arm.stem}_seed0.log").read_text() for arm in ARMS]
    assert "gpu 2\n" in logs[0]
    assert "gpu 5\n" in logs[1]


def test_a_finished_sweep_starts_no_daemon(program, out, monkeypatch, daemon):
    monkeypatch.setattr(places, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr("gan_vkd.sweep.plan.is_finished", lambda *given, **named: True)
    assert len(sweep(program, ARMS, [0], out, [], jobs=4)) == 3
    assert daemon.calls == []


def test_a_failed_start_ends_the_daemon(program, out, monkeypatch, daemon):
    monkeypatch.setattr(places, "visible_gpus", lambda: ["0"])
    (out / "quickstart_layernorm_seed0.log").mkdir()
    with pytest.raises(VkdError, match="cannot be started"):
        sweep(program, ARMS, [0], out, [], jobs=2)
    assert [said for said, *_ in daemon.calls] == ["get_server_list", "start", "quit"]


@pytest.fixture
def started(program, out, daemon) -> Iterator["subprocess.Popen[str]"]:
    """Starts a sweep of two runs at once on one GPU in a process group of its own."""
    code = (
        "from pathlib import Path\nfrom gan_vkd import cli\n"
        "from gan_vkd.game.settings import load_settings\nfrom gan_vkd.sweep import places\n"
        "from gan_vkd.sweep.local import sweep\nfrom gan_vkd.sweep.plan import Program\n"
        "places.visible_gpus = lambda: ['0']\n"
        f"program = Program({program.command}, load_settings)\n"
        f"arms = [Path(arm) for arm in {[str(arm) for arm in ARMS]}]\n"
        f"cli.app = lambda: sweep(program, arms, [0], Path({str(out)!r}), [], 2)\n"
        "cli.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    yield process
    process.kill()
    process.wait()
    for _, _, pid in events(out):
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_daemon_is_ended_after_the_runs_that_a_signal_stops(
    program, out, daemon, request, number
):
    for arm in ARMS[:2]:
        (out / f"{arm.stem}_seed0.does").write_text("wait")
    process = request.getfixturevalue("started")
    until(lambda: len(events(out)) == 2)
    assert [said for said, *_ in daemon.calls] == ["get_server_list", "start"]
    os.killpg(process.pid, number)
    assert process.wait(30) == 128 + number
    assert [said for said, *_ in daemon.calls] == ["get_server_list", "start", "quit"]
    assert daemon.calls[1][2] == daemon.calls[2][2]
    assert len(events(out)) == 6

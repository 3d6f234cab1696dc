"""Submitting runs to SLURM, with a recording executor, fake commands and submitit's executor."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.sweep.plan import Job, plan
from gan_vkd.sweep.slurm import run_job, submit
from tests.conftest import CONFIGS, until
from tests.conftest import QUICKSTART as ARMS
from tests.fake_run import events

ROOT = CONFIGS.parent


class Recorder:
    """A submitit executor that records its arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.parameters, self.jobs = folder, [], []
        self.job_id = "17"

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters.append(parameters)

    def submit(self, function: Callable[[Job], None], job: Job) -> "Recorder":
        assert function is run_job
        self.jobs.append(job)
        return self


def test_submitting_starts_no_run_locally(program, out, capsys):
    recorders: list[Recorder] = []

    def make(folder: Path) -> Recorder:
        recorders.append(Recorder(folder))
        return recorders[-1]

    text = "timeout_min=240,slurm_partition=gpu, gpus_per_node=1,time=24:00:00,nodelist=a[1,2]"
    assert submit(program, ARMS, [0, 1], out, ["distill.weight=2"], text, make) == ["17"] * 6
    lines = capsys.readouterr().out.splitlines()
    (recorder,) = recorders
    assert recorder.folder == out / "slurm"
    assert recorder.jobs == plan(program, ARMS, [0, 1], out, ["distill.weight=2"])
    assert recorder.parameters[1] == {
        "name": "quickstart_layernorm_seed0", "timeout_min": 240, "slurm_partition": "gpu",
        "gpus_per_node": 1, "slurm_time": "24:00:00", "slurm_nodelist": "a[1,2]",
    }  # fmt: skip
    assert events(out) == []
    assert f"quickstart seed 0: job 17, {out / 'quickstart_seed0.log'}" in lines
    assert str(out / "slurm") in lines[-1]


@pytest.mark.parametrize("text", ["", "gpu", "=1", "a b=1", "timeout_min=", "timeout_min=1,,x=2"])
def test_invalid_parameters_are_refused(program, out, text):
    with pytest.raises(SettingsError, match=r"--slurm .*: expected key=value"):
        submit(program, ARMS, [0], out, [], text, Recorder)


def test_missing_submitit_or_slurm_is_reported(program, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(VkdError, match="pip install submitit"):
        submit(program, ARMS, [0], out, [], "timeout_min=5")
    monkeypatch.undo()
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(out))  # without srun
    with pytest.raises(VkdError, match='"srun"'):
        submit(program, ARMS, [0], out, [], "timeout_min=5")


def test_parameters_are_passed_to_slurm(program, out, monkeypatch):
    """With fake SLURM commands and the real submitit."""
    pytest.importorskip("submitit")
    commands = out.parent / "bin"
    commands.mkdir()
    for name in ("srun", "sbatch"):
        (commands / name).write_text('#!/bin/sh\necho "Submitted batch job 4$(date +%N)"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    ids = submit(program, ARMS[:2], [0], out, [], "timeout_min=240,partition=gpu,gpus_per_node=1")
    text = (out / "slurm" / f"{ids[1]}_submission.sh").read_text()
    for line in ("partition=gpu", "time=240", "gpus-per-node=1",
                 "job-name=quickstart_layernorm_seed0"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in text
    with pytest.raises(SettingsError, match="--slurm: Unknown argument 'partitoin'"):
        submit(program, ARMS[:1], [0], out, [], "partitoin=gpu")
    with pytest.raises(SettingsError, match='--slurm: Parameter "timeout_min" expected'):
        submit(program, ARMS[:1], [0], out, [], "timeout_min=4h")
    (commands / "sbatch").write_text("#!/bin/sh\necho no such partition >&2\nexit 1\n")
    with pytest.raises(
        VkdError, match=r"quickstart seed 0: not submitted .*no such partition"
    ) as e:
        submit(program, ARMS[:1], [0], out, [], "partition=gpu")
    assert len(str(e.value).splitlines()) == 1


def test_jobs_of_submitit_run_fail_and_continue_after_a_time_limit(program, out):
    """With submitit's local executor, which handles the signals that SLURM sends."""
    submitit = pytest.importorskip("submitit")
    (out / "quickstart_seed0.does").write_text("fail")
    (out / "quickstart_whitening_seed0.does").write_text("wait")
    jobs: list[Any] = []

    class Local(submitit.LocalExecutor):
        def submit(self, *arguments: Any) -> Any:
            jobs.append(super().submit(*arguments))
            return jobs[-1]

    environment = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{ROOT}:{environment}"
    try:
        ids = submit(program, ARMS, [0], out, [], "timeout_min=5", Local)
    finally:
        os.environ["PYTHONPATH"] = environment
    assert ids == [job.job_id for job in jobs]

    until(lambda: ["quickstart_whitening_seed0", "start"] in [e[:2] for e in events(out)])
    (out / "quickstart_whitening_seed0.does").unlink()
    (child,) = [int(pid) for name, _, pid in events(out) if name == "quickstart_whitening_seed0"]
    status = Path(f"/proc/{child}/status")
    if not status.exists():
        pytest.skip("the parent of a process is looked up in /proc")
    parent = next(line for line in status.read_text().splitlines() if line.startswith("PPid"))
    for process in (child, int(parent.split()[1])):  # SLURM signals all processes of a job
        os.kill(process, signal.SIGUSR2)

    with pytest.raises(submitit.core.utils.FailedJobError, match="vkd: it cannot go on"):
        jobs[0].result()
    assert jobs[1].result() is None
    until(jobs[2].done)
    assert jobs[2].result() is None
    seen = [what for name, what, _ in events(out) if name == "quickstart_whitening_seed0"]
    assert seen == ["start", "SIGTERM", "end", "start", "end"]
    assert "done well" in (out / "quickstart_whitening_seed0.log").read_text()

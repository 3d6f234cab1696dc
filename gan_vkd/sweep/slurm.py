"""Sweeps on SLURM through submitit: one job per run, which starts the process of a local sweep."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.files import user_path
from gan_vkd.sweep.plan import Job, Program, plan
from gan_vkd.sweep.process import describe, last_line, start

# Parameters of submitit's AutoExecutor for any cluster; others get the prefix slurm_.
SHARED = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node",
          "tasks_per_node", "stderr_to_stdout")  # fmt: skip


def submit(
    program: Program,
    configs: list[Path],
    seeds: list[int],
    out: Path,
    overrides: list[str],
    parameters: str,
    make_executor: Callable[[Path], Any] | None = None,
) -> list[str]:
    """Submits one SLURM job for every run that is not finished; does not wait for them.

    Args:
        program, configs, seeds, out, overrides: as in `sweep`.
        parameters: such as "timeout_min=240,partition=gpu,gpus_per_node=1": of submitit's
            AutoExecutor or of sbatch, the latter with or without the prefix slurm_.
        make_executor: makes a submitit executor from the folder for its files; None: SLURM's.

    Returns:
        The job ids.

    Raises:
        SettingsError: as in `plan`, or parameters that submitit does not know.
        VkdError: submitit or SLURM is missing, or SLURM refuses a job.
    """
    chosen = _slurm_parameters(parameters)
    runs = plan(program, configs, seeds, out, overrides)
    folder, ids = user_path(out) / "slurm", []
    executor = (make_executor or _slurm)(folder)
    for job in runs:
        if job.finished:
            print(f"{job.name}: finished already")
            continue
        try:
            executor.update_parameters(**{"name": job.folder.name} | chosen)
            ids.append(str(executor.submit(run_job, job).job_id))
        except (NameError, ValueError, AssertionError) as error:
            raise SettingsError(f"--slurm: {str(error).partition(chr(10))[0]}") from None
        except (RuntimeError, OSError) as error:
            reason = one_line(error)
            raise VkdError(f"{job.name}: not submitted ({reason})") from None
        print(f"{job.name}: job {ids[-1]}, {job.log}", flush=True)
    print(f"{len(ids)} jobs submitted; their SLURM logs are in {folder}")
    return ids


def run_job(job: Job) -> None:
    """Runs in a SLURM job: starts the same process as `sweep`, with the same log.

    Raises:
        VkdError: the run failed.
    """
    # Before its time limit SLURM sends a signal to every process of a job. It would end the run;
    # submitit handles it in this process, raises an exception here and requeues the job.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    try:
        process = start(job, dict(os.environ), own_session=False)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()  # it writes a checkpoint
            process.wait()
    if code:
        raise VkdError(f"{job.name} {describe(code, False)}: {last_line(job.log)}; {job.log}")


def _requeued(job: Job) -> Any:
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(run_job, job)


run_job.checkpoint = _requeued  # type: ignore[attr-defined]  # queued after a time limit


def _slurm(folder: Path) -> Any:
    try:
        import submitit
    except ImportError:
        raise VkdError("--slurm needs submitit: pip install submitit") from None
    try:
        # Without `cluster` submitit would start all jobs at once on a machine that has no SLURM
        return submitit.AutoExecutor(folder, cluster="slurm")
    except RuntimeError as error:
        raise VkdError(f"--slurm: {error} Run it where sbatch is installed.") from None


def _slurm_parameters(text: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for item in re.split(r",(?=\s*\w+=)", text):  # not at the comma of nodelist=a[1,2]
        key, _, value = item.strip().partition("=")
        if not key.isidentifier() or not value or value.endswith(","):
            raise SettingsError(f"--slurm {item!r}: expected key=value,key=value")
        key = key if key in SHARED or key.startswith("slurm_") else f"slurm_{key}"
        try:
            parameters[key] = json.loads(value)  # 240, true, {...}
        except ValueError:
            parameters[key] = value
    return parameters

"""Processes of a sweep's runs: starting them, and describing how they ended."""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

from gan_vkd.runtime.errors import VkdError
from gan_vkd.sweep.plan import Job


def start(
    job: Job, environment: dict[str, str], own_session: bool = True
) -> "subprocess.Popen[bytes]":
    """Starts a run's process; its output is appended to its log.

    own_session: the process does not receive the terminal's Ctrl-C itself; the sweep forwards it.

    Raises:
        VkdError: the process cannot be started, or the log cannot be written.
    """
    try:
        with open(job.log, "ab", buffering=0) as log:
            log.write(f"$ {shlex.join(job.command)}\n".encode())
            return subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Unbuffered, so that the log ends with the last output, such as an error
                env=environment | {"PYTHONUNBUFFERED": "1"},
                start_new_session=own_session,
            )
    except OSError as error:
        raise VkdError(f"{job.log}: the run cannot be started ({error.strerror})") from None


def describe(code: int, stopping: bool) -> str:
    """Describes an exit code; `stopping`: the sweep has stopped its runs."""
    if code == 0:
        return "finished"
    names = {-number: number.name for number in signal.Signals}
    reason = names.get(code, f"exit code {code}")
    return f"{'stopped' if stopping else 'failed'} ({reason})"


def last_line(log: Path) -> str:
    """Returns the last line of a run's log, such as its error; "" if there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            line = re.split(r"[\r\n]+", file.read().decode(errors="replace").rstrip())[-1].strip()
    except OSError:
        return ""
    return "" if line.startswith("$ ") else line[:300]  # the command that start wrote

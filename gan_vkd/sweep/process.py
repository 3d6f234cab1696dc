"""A run of a sweep as a process: how it is started, and what is told of its end."""

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
    """In a session of its own a run does not get the terminal's Ctrl-C beside the sweep's."""
    try:
        with open(job.log, "ab", buffering=0) as log:
            log.write(f"$ {shlex.join(job.command)}\n".encode())
            return subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Unbuffered: what comes last in the log was said last, as an error is
                env=environment | {"PYTHONUNBUFFERED": "1"},
                start_new_session=own_session,
            )
    except OSError as error:
        raise VkdError(f"{job.log}: the run cannot be started ({error.strerror})") from None


def describe(code: int, asked: bool) -> str:
    if code == 0:
        return "finished"
    names = {-number: number.name for number in signal.Signals}
    reason = names.get(code, f"exit code {code}")
    return f"{'stopped' if asked else 'failed'} ({reason})"


def last_line(log: Path) -> str:
    """What a run said last, its error where there is one; "" for nothing."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            said = re.split(r"[\r\n]+", file.read().decode(errors="replace").rstrip())[-1].strip()
    except OSError:
        return ""
    return "" if said.startswith("$ ") else said[:300]  # the command that start wrote

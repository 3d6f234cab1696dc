"""Runs jobs one after another in a process of their own, each within its share of the time.

A job that raises, hangs or kills the process loses only its own result: a process is started again
for those after it, as CUDA is unusable in a process after some errors.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from gan_vkd.runtime.errors import one_line

LEAST = 5.0  # seconds; a job is not started with less


class Job(NamedTuple):
    """A function of this module's caller, its arguments, and the seconds that it may take."""

    name: str
    call: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]
    seconds: float


class Worker:
    """A process, in a session of its own, that computes jobs until it is stopped."""

    def __init__(self) -> None:
        self.connection, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=_work, args=(other,))
        self.process.start()
        other.close()

    def compute(self, job: Job, seconds: float) -> dict[str, Any]:
        """Returns the job's result, or {"error": why there is none}, after which it must be
        stopped."""
        try:
            self.connection.send((job.call, job.arguments))
            if not self.connection.poll(seconds):
                return {"error": f"stopped after {seconds:.0f} s"}
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return {"error": f"its process ended with exit code {self.process.exitcode}"}

    def stop(self) -> None:
        with suppress(ProcessLookupError):  # it has ended, or has no session yet
            os.killpg(self.process.pid, signal.SIGKILL)  # and what it has started
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection) -> None:
    os.setsid()
    os.dup2(2, 1)  # standard output is the caller's
    while True:
        try:
            call, arguments = connection.recv()
        except EOFError:  # the caller is gone
            return
        try:
            result = call(*arguments)
        except Exception as error:
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {one_line(error)}"}
        connection.send(result)


def run(jobs: list[Job], until: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each job's name and result as soon as it ends.

    A result is what the job returned, or {"error": one line}, with the seconds that it "took",
    the start of the process included.

    Args:
        until: the time (of time.monotonic) at which all must have ended.
    """
    worker: Worker | None = None
    try:
        for job in jobs:
            left = until - time.monotonic()
            if left < LEAST:
                yield job.name, {"error": "not started: no time was left"}
                continue
            print(f"{job.name} ...", file=sys.stderr, flush=True)
            worker, start = worker or Worker(), time.monotonic()
            result = worker.compute(job, min(job.seconds, left))
            result["took"] = time.monotonic() - start
            if "error" in result:
                worker.stop()
                worker = None
            yield job.name, result
    finally:
        if worker is not None:
            worker.stop()

"""Processes forked from one that has imported what a run needs: importing takes four seconds."""

import contextlib
import io
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = torch.multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["gan_vkd.training", "classification.recognition.training",
     "classification.detection.training", "torch._dynamo"]
)  # fmt: skip


def on_ranks(world: int, target: Any, *args: Any) -> dict[int, Any]:
    """Runs target(rank, world, *args, queue), which queues (rank, result); returns the results."""
    queue = CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=target, args=(rank, world, *args, queue)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return found


class Forked:
    """Stands in for subprocess.Popen([python, "-m", MODULE, ARGUMENT, ...]).

    Args:
        command: of a module that has been imported.
        output: a file that standard output and error are appended to.
        environment: variables that are added.
    """

    def __init__(self, command: list[str], output: Path, **environment: str) -> None:
        self.output = output
        arguments = command[command.index("-m") + 1 :], output, environment
        self._process = CONTEXT.Process(target=_run_module, args=arguments, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 300) -> str:
        """Waits for its end and returns the output."""
        self._process.join(timeout)
        assert self.returncode is not None, f"still running after {timeout} s"
        return self.output.read_text(errors="replace")


def _run_module(words: list[str], output: Path, environment: dict[str, str]) -> None:
    file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ |= environment
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def ranks_of(world: int, command: list[str], folder: Path) -> list[Forked]:
    """Starts a command as the ranks of a process group, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": str(world),
              "MASTER_ADDR": "localhost", "MASTER_PORT": port}  # fmt: skip
    return [
        Forked(command, folder / f"rank{rank}.txt", RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(world)
    ]


def called(main: Callable[[], None], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a program's main function in this process, with a command line."""
    words = ["vkd", *map(str, arguments)]
    output, errors = io.StringIO(), io.StringIO()
    code: Any = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output),
    ):  # fmt: skip
        patch.setattr(sys, "argv", words)
        try:
            main()
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(words, int(code or 0), output.getvalue(), errors.getvalue())


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs Python with the arguments in a new process, by default in the checkout."""
    options = {"cwd": ROOT, "stdout": subprocess.PIPE} | options
    return subprocess.run(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
        **options,
    )

"""CUDA's Multi-Process Service (MPS): kernels of several processes at the same time on one GPU.

Without it a GPU computes for one process at a time. A daemon belongs to a folder, which has its
pipes and logs; processes whose environment names that folder are served by it. No setting of the
GPU is changed, and daemons of other folders are left alone.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import which

from gan_vkd.runtime.errors import VkdError, one_line

CONTROL = "nvidia-cuda-mps-control"
PATIENCE = 20  # seconds for an answer of the daemon


@contextmanager
def served(gpu: str, folder: Path) -> Iterator[dict[str, str]]:
    """Starts a daemon for a GPU and ends it afterwards, when its processes must have ended.

    Args:
        gpu: its index or UUID, as in CUDA_VISIBLE_DEVICES.
        folder: an existing folder for pipes and logs.

    Yields:
        The variables of the processes that it serves.

    Raises:
        VkdError: MPS is not installed, or does not start.
    """
    if which(CONTROL) is None:
        raise VkdError(f"{CONTROL} is not installed")
    # a daemon counts its GPUs from 0: indices of its processes are those of its own list
    seen = "0" if gpu.isdecimal() else gpu
    variables = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    try:
        subprocess.run(
            [CONTROL, "-d"], env=os.environ | variables | {"CUDA_VISIBLE_DEVICES": gpu},
            check=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,  # no Ctrl-C of the terminal
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        end(folder)  # it may have been late
        raise VkdError(f"{CONTROL} does not start ({one_line(error)})") from None
    try:
        yield variables | {"CUDA_VISIBLE_DEVICES": seen}
    finally:
        end(folder)


def end(folder: Path) -> None:
    """Ends the daemon of a folder, if there is one."""
    _ask("quit", os.environ | {"CUDA_MPS_PIPE_DIRECTORY": str(folder)})


def runs_already() -> bool:
    """Returns whether there is a daemon that serves this process's children as they are."""
    return _ask("get_server_list", os.environ)


def _ask(command: str, environment: Mapping[str, str]) -> bool:
    """Sends a command to the environment's daemon; returns whether it answered."""
    try:
        answer = subprocess.run(
            [CONTROL], input=f"{command}\n", text=True, env=environment, timeout=PATIENCE,
            check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError):
        return False
    return answer.returncode == 0

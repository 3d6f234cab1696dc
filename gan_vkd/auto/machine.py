"""What this machine has for training: its device, memory, and the weights of the usual judge."""

import urllib.request
from dataclasses import dataclass
from typing import Literal

import torch
from cleanfid.downloads_helper import inception_url

from gan_vkd.evaluation.judge import inception_file
from gan_vkd.runtime.devices import pick_device, usable_cores
from gan_vkd.runtime.memory import total_memory

PATIENCE = 3  # seconds to wait for the server of Inception's weights
Judge = Literal["here", "reachable", "absent"]


@dataclass(frozen=True)
class Machine:
    """device: as torch names it. name: of the GPU. cores: of the CPU that may be used. memory: of
    the device in GiB. inception: whether its weights are here, can be fetched, or neither."""

    device: str = "cpu"
    name: str = ""
    cores: int = 2
    memory: float = 8.0
    inception: Judge = "absent"

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"

    def __str__(self) -> str:
        where = self.name or f"{self.device.upper()}, {self.cores} cores"
        return f"{where}, {self.memory:.0f} GiB of memory"


def this_machine(device: str, judged: bool = True) -> Machine:
    """Describes this machine with a device that settings name.

    judged: look for Inception's weights, for which their server may be asked; not for a CPU.

    Raises:
        VkdError: the device cannot be used.
    """
    device, name = pick_device(device), ""
    memory = total_memory()
    if device.startswith("cuda"):
        gpu = torch.cuda.get_device_properties(device)
        name, memory = gpu.name, gpu.total_memory
    judge = _inception() if judged and device != "cpu" else "absent"
    return Machine(device, name, usable_cores(), memory / 2**30, judge)


def _inception() -> Judge:
    if inception_file().exists():
        return "here"
    try:
        request = urllib.request.Request(inception_url, method="HEAD")
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return "reachable"
    except (OSError, ValueError):
        return "absent"

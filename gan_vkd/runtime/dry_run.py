"""What a run would need, measured without training it: networks, seconds and memory."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gan_vkd.runtime.terminal import result


@dataclass(frozen=True)
class Needs:
    """text: in words. networks: parameters by name. iteration, total: seconds, of an iteration and
    of the run. memory: peak in bytes. checkpoint: bytes."""

    text: str
    networks: dict[str, int]
    iteration: float
    total: float
    memory: int
    checkpoint: int

    @property
    def facts(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "text"}


def of_sweep(arms: list[tuple[str, Needs]], seeds: int) -> None:
    """Says what each arm needs, and all runs one after the other.

    arms: names, and needs measured in one process, so that the memory of each is at least that of
    those before it.
    """
    lines = [line for name, needs in arms for line in (f"{name}:", indented(needs.text))]
    total = seeds * sum(needs.total for _, needs in arms)
    lines.append(f"{len(arms)} arms x {seeds} seeds, one after the other: {duration(total)}")
    result("\n".join(lines), total=total, arms={name: needs.facts for name, needs in arms})


def parameters(networks: dict[str, torch.nn.Module | None]) -> dict[str, int]:
    """The number of parameters of each network that is there and has some."""
    counts = {
        name: sum(p.numel() for p in network.parameters())
        for name, network in networks.items()
        if network is not None
    }
    return {name: count for name, count in counts.items() if count}


def in_words(networks: dict[str, int]) -> str:
    """The networks with their parameters on a line."""
    shown = (f"{name} {count / 1e6:.3g} million" for name, count in networks.items())
    return f"parameters: {', '.join(shown)}"


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of some work, with what it leaves a GPU to do."""
    _wait(device)
    begun = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def duration(seconds: float) -> str:
    """12 s, 34 min, 5.6 h or 7.8 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def pace(seconds: float) -> str:
    """Seconds of an iteration, in two digits."""
    return f"{seconds:.2g} s" if seconds >= 0.1 else f"{seconds * 1000:.2g} ms"


def indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))

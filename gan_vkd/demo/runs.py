"""The runs that a demo shows, with their loaded generators."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from gan_vkd.networks.interface import Generator
from gan_vkd.tools.inputs import load
from gan_vkd.tools.styles import has_styles


@dataclass(frozen=True)
class Shown:
    """A run with its best generator.

    path: folder of the run. generator: in eval mode. facts: stored with it (`GeneratorFacts`).
    truncates: whether the network has a truncation.
    """

    path: Path
    generator: Generator
    facts: dict[str, Any]
    truncates: bool
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, or their numbers if they have none; [] if unconditional."""
        return self.facts["names"] or [str(label) for label in range(self.facts["classes"])]

    @property
    def spaces(self) -> list[str]:
        """The spaces that pictures can be projected into; the first one is the default."""
        return ["w", "w+", "z"] if has_styles(self.generator) else ["z"]

    @property
    def about(self) -> str:
        """One line about the generator."""
        kind = {1: "grey", 3: "colour", 4: "transparent"}[self.generator.shape.channels]
        size = f"{self.generator.shape.width} x {self.generator.shape.height} pixels"
        count = self.facts["classes"]
        classes = f"{count} classes" if count else "no classes"
        return f"{self.path}: {size}, {kind}, {classes}, iteration {self.facts['iteration']}"

    @contextmanager
    def truncated(self, psi: float) -> Iterator[Generator]:
        """Gives the generator to one thread at a time, truncated if it can be."""
        with self._lock:
            if self.truncates:
                self.generator.truncate(psi)
            yield self.generator


def open_run(path: Path, device: str) -> Shown:
    """Loads the best generator of a run folder; device as in the settings.

    Raises:
        VkdError: no generator, a damaged one, or no such device.
    """
    generator, facts = load(path, device)
    try:
        generator.truncate(1.0)
    except ValueError:
        return Shown(path, generator, facts, truncates=False)
    return Shown(path, generator, facts, truncates=True)

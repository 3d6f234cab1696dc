"""A run is a folder: settings, metrics, sample grids, checkpoints, the exported generator."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gan_vkd import ranks
from gan_vkd.checkpoint import digest, load_state, save_state, write_atomically
from gan_vkd.config import Settings, load_settings
from gan_vkd.errors import VkdError
from gan_vkd.lock import locked
from gan_vkd.models.biggan import Generator


class Run:
    """The files of a run and nothing else.

    settings.yaml, metrics.jsonl, evaluations.jsonl, samples/*.png, scores/*.png, tensorboard/,
    checkpoints/*.safetensors; of the best by the run's measure: generator.safetensors, and
    neighbours.png, samples with the five training images nearest to each.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).expanduser()

    @property
    def generator_file(self) -> Path:
        return self.path / "generator.safetensors"

    def settings(self) -> Settings:
        return load_settings(self.path)

    def write_settings(self, settings: Settings) -> None:
        text = settings.dump()
        write_atomically(self.path / "settings.yaml", lambda file: file.write_text(text))

    # checkpoints

    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted((self.path / "checkpoints").glob("[0-9]*.safetensors"))

    def save(self, iteration: int, state: dict[str, Any], keep: int = 2, best: int = 0) -> None:
        """Writes a checkpoint and drops the oldest beyond `keep`, but not that of iteration `best`.

        At least two are kept: a damaged newest one needs a predecessor.
        """
        folder = self.path / "checkpoints"
        save_state(folder / f"{iteration:08d}.safetensors", state)
        for old in [file for file in self.checkpoints() if int(file.stem) != best][:-keep]:
            old.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process, and all ranks that train with it.

        What a killed process had begun to write is removed.
        """
        with locked(self.path) if ranks.is_first() else nullcontext():
            if ranks.is_first():
                for begun in self.path.rglob(".*.tmp"):
                    begun.unlink(missing_ok=True)
            yield

    def latest_state(self, retire: bool = False) -> dict[str, Any] | None:
        """The newest whole checkpoint; damaged ones are named and passed over.

        With `retire`, damaged ones that are newer get another name, so that they do not stand for
        the newest when older ones are dropped.
        """
        files, damaged = self.checkpoints(), []
        for file in reversed(files):
            try:
                state = load_state(file)
            except VkdError as error:
                print(f"passed over: {error}")
                damaged.append(file)
                continue
            for old in damaged if retire else []:
                old.rename(old.with_name(f"{old.name}.damaged"))
            return state
        if files:
            raise VkdError(f"{self.path}: every checkpoint is damaged; train anew elsewhere")
        return None

    # the exported generator

    def export(self, generator: Generator, facts: dict[str, Any]) -> None:
        """Writes the generator's weights as plain safetensors, with what is known of it."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in generator.state_dict().items()}
        text = json.dumps(facts | {"classes": generator.classes})
        metadata = {"facts": text, "settings": self.settings().dump()}
        metadata["sha256"] = digest(text, tensors)
        write_atomically(self.generator_file, lambda file: save_file(tensors, file, metadata))

    def load_generator(self, device: str) -> tuple[Generator, dict[str, Any]]:
        """The exported generator in eval mode, and its facts (iteration, classes, label shares).

        Raises:
            VkdError: no generator yet, or a damaged file.
        """
        file = self.generator_file
        if not file.is_file():
            raise VkdError(f"{file}: no generator yet; train first (vkd train CONFIG --out RUN)")
        settings = self.settings()
        try:
            with safe_open(file, "pt") as saved:
                metadata = saved.metadata() or {}
                state = {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118
            if metadata["sha256"] != digest(metadata["facts"], state):
                raise ValueError("its checksum does not match")
            facts = json.loads(metadata["facts"])
            with torch.device("meta"):  # takes no memory, whatever size a stranger's settings say
                generator = Generator(
                    settings.data.resolution,
                    settings.model.ch,
                    settings.model.z_dim,
                    facts["classes"],
                )
            generator.load_state_dict(state, assign=True)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise VkdError(f"{file}: damaged or not of this run's settings ({reason})") from None
        return generator.to(device).eval().requires_grad_(False), facts

    # records

    def append(self, name: str, record: dict[str, Any]) -> None:
        """One JSON line at the end of a record file (metrics, evaluations)."""
        file = self.path / f"{name}.jsonl"
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW  # a link may lead anywhere
            with os.fdopen(os.open(file, flags, 0o666), "ab+") as handle:
                if handle.tell():
                    handle.seek(-1, os.SEEK_END)
                cut_off = handle.read() not in (b"", b"\n")
                handle.write(b"\n" * cut_off + json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise VkdError(f"{file}: cannot be written ({error.strerror})") from None

    def records(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a record file; a line cut off by a crash is left out."""
        return list(self._parse(self.path / f"{name}.jsonl"))

    def truncate(self, name: str, iteration: int) -> None:
        """Drops records after `iteration`, those of a past that a resumed run lives again."""
        kept = [r for r in self.records(name) if r["iteration"] <= iteration]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.path / f"{name}.jsonl", lambda file: file.write_text(text))

    @staticmethod
    def _parse(file: Path) -> Iterator[dict[str, Any]]:
        if file.is_file():
            for line in file.read_bytes().splitlines():
                with suppress(ValueError):  # neither JSON nor UTF-8
                    yield json.loads(line)


def pick_device(name: str) -> str:
    """`auto` is the GPU where there is one.

    Raises:
        VkdError: a device that torch does not have.
    """
    if name.startswith("cuda:") and ranks.world() > 1:
        raise VkdError(f"device {name}: each rank takes a GPU of its own; set device=cuda")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = ranks.local_device()
    try:
        torch.zeros((), device=name).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0][:200]
        raise VkdError(f"device {name}: not usable here ({reason}); set device=cpu") from None
    return name

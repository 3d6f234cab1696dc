"""The run folder: settings, checkpoints, records, and a lock against concurrent runs."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, ClassVar

from gan_vkd.runtime import ranks
from gan_vkd.runtime.checkpoint import load_state, save_state
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import (
    NO_LINK,
    NO_WAIT,
    read_bytes,
    reason,
    remove_unfinished,
    subfolder,
    user_path,
    write_text,
)
from gan_vkd.runtime.lock import locked
from gan_vkd.runtime.stopping import End

CHECKPOINT = re.compile(r"\d{8,15}\.safetensors")  # names of checkpoints: the iteration
MOST_RECORDS = 2**30  # bytes of a file of records


class RunFolder:
    """Has settings.yaml, metrics.jsonl and other records, checkpoints/*.safetensors, tensorboard/,
    and exit_code: the `End` of the last training as a number, absent during training."""

    subfolders: ClassVar[Sequence[str]] = ("checkpoints",)

    def __init__(self, path: Path) -> None:
        self.path = user_path(path)

    def write_settings(self, text: str) -> None:
        write_text(self.path / "settings.yaml", text)

    def record_end(self, end: End | None) -> None:
        """Writes exit_code, or removes it at the start of training (None).

        torchrun's own exit code does not distinguish a run that is out of time.
        """
        file = self.path / "exit_code"
        if end is None:
            file.unlink(missing_ok=True)
        else:
            write_text(file, f"{end:d}\n")

    # checkpoints

    def checkpoints(self) -> list[Path]:
        """Returns the checkpoint files, oldest first, and leaves out files of other names.

        Raises:
            VkdError: their folder cannot be read.
        """
        folder = self.path / "checkpoints"
        try:
            names = os.listdir(folder) if os.path.lexists(folder) else []
        except OSError as error:
            raise VkdError(f"{folder}: cannot be read ({reason(error)})") from None
        files = [folder / name for name in names if CHECKPOINT.fullmatch(name)]
        return sorted(files, key=lambda file: int(file.stem))

    def save(self, iteration: int, state: dict[str, Any], keep: int = 2, best: int = 0) -> None:
        """Writes a checkpoint and deletes all but the newest `keep` and that of iteration `best`.

        `keep` should be at least two, so that a damaged newest one has a predecessor.
        """
        folder = subfolder(self.path, "checkpoints")
        save_state(folder / f"{iteration:08d}.safetensors", state)
        for old in [file for file in self.checkpoints() if int(file.stem) != best][:-keep]:
            old.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder for this process and its ranks.

        Temporary files that a killed process left behind are deleted.

        Raises:
            VkdError: the folder is in use, or a subfolder of it is a symbolic link.
        """
        with locked(self.path) if ranks.is_first() else nullcontext():
            if ranks.is_first():
                for name in self.subfolders:
                    remove_unfinished(subfolder(self.path, name))
                remove_unfinished(self.path)
            yield

    def latest_state(self, retire: bool = False) -> dict[str, Any] | None:
        """Reads the newest intact checkpoint; damaged ones are reported and skipped.

        With `retire`, the skipped ones are renamed, so that `save` does not count them as the
        newest. Returns None if there are no checkpoints.

        Raises:
            VkdError: every checkpoint is damaged.
        """
        files, damaged = self.checkpoints(), []
        for file in reversed(files):
            try:
                state = load_state(file)
            except VkdError as error:
                print(f"skipped: {error}")
                damaged.append(file)
                continue
            for old in damaged if retire else []:
                old.rename(old.with_name(f"{old.name}.damaged"))
            return state
        if files:
            raise VkdError(f"{self.path}: every checkpoint is damaged; train in a new folder")
        return None

    # records

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Appends a record as a JSON line to NAME.jsonl (metrics, evaluations)."""
        file = self.path / f"{name}.jsonl"
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_LINK | NO_WAIT
            with os.fdopen(os.open(file, flags, 0o666), "ab+") as handle:
                if handle.tell():
                    handle.seek(-1, os.SEEK_END)
                truncated = handle.read() not in (b"", b"\n")
                handle.write(b"\n" * truncated + json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise VkdError(f"{file}: cannot be written ({reason(error)})") from None

    def records(self, name: str) -> list[dict[str, Any]]:
        """Returns the records of NAME.jsonl; ignores lines that are not JSON mappings, such as one
        truncated by a crash."""
        return list(self._parse(self.path / f"{name}.jsonl"))

    def truncate(self, name: str, iteration: int) -> None:
        """Deletes records after `iteration`, which a resumed run repeats, and those without one."""
        counted = [r for r in self.records(name) if type(r.get("iteration")) is int]
        kept = [record for record in counted if record["iteration"] <= iteration]
        write_text(
            self.path / f"{name}.jsonl", "".join(json.dumps(record) + "\n" for record in kept)
        )

    @staticmethod
    def _parse(file: Path) -> Iterator[dict[str, Any]]:
        if os.path.lexists(file):
            for line in read_bytes(file, MOST_RECORDS).splitlines():
                with suppress(ValueError, RecursionError):  # neither JSON nor UTF-8
                    record = json.loads(line)
                    if isinstance(record, dict):
                        if {"returns", "tensor"} <= record.keys():  # of an earlier version
                            record["rollbacks"] = record.pop("returns")
                        yield record

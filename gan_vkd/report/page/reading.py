"""Reads what there is of a run; its folder may be a stranger's, damaged or unfinished."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gan_vkd.report.page.subject import Shown, Subject
from gan_vkd.report.page.views import Measured, View
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.facts import Count, Facts, checked
from gan_vkd.runtime.files import read_text
from gan_vkd.runtime.stopping import End


class Logged(Facts):
    """The keys that every record of training or of an evaluation has."""

    iteration: Count
    seconds: Annotated[float, Field(ge=0)] | None = None


def view(subject: Subject[Measured], folder: Path) -> View[Measured]:
    """Reads a run, without following links inside of its folder.

    Raises:
        VkdError: no folder.
    """
    run = subject.open(folder)
    if not run.path.is_dir():
        raise VkdError(f"{folder}: not a run folder")
    found: View[Measured] = View(run.path, run.path.absolute().name, "")
    names = "settings.yaml", "metrics.jsonl", "evaluations.jsonl"
    links = [name for name in names if (run.path / name).is_symlink()]
    found.missing += [f"{run.path / name}: a symbolic link, not followed" for name in links]
    if "settings.yaml" not in links:
        with _noted(found.missing):
            found.settings = run.settings()
            found.name = f"{found.settings.arm}, seed {found.settings.seed}"
    if "metrics.jsonl" not in links:
        _read_records(subject, run, found)
    if not links and found.settings is not None:
        with _noted(found.missing):
            found.measured = subject.measured(run)
    found.state = _state(found)
    return found


def _read_records(subject: Subject[Measured], run: Shown, found: View[Measured]) -> None:
    file, damaged = run.path / "metrics.jsonl", list[str]()
    with _noted(found.missing):
        for line in run.records("metrics"):
            with _noted(damaged):
                found.records.append(checked(Logged, subject.record(line, file), file))
        if not found.records and not damaged:
            found.missing.append(f"{file}: no records yet")
    if damaged:
        found.missing.append(f"{damaged[0]} ({len(damaged)} records of this kind are left out)")


def _state(found: View[Any]) -> str:
    """How training ended, by the folder's file exit_code."""
    file, code = found.folder / "exit_code", None
    if file.is_file() and not file.is_symlink():
        with suppress(VkdError, ValueError):
            code = End(int(read_text(file, 100)))
    total = None if found.settings is None else found.settings.total
    if code is End.FINISHED or (total is not None and found.iteration >= total):
        return "finished"
    if code is not None:
        return "stopped, out of time" if code is End.OUT_OF_TIME else f"stopped by {code.name}"
    return "running, failed or killed"


@contextmanager
def _noted(missing: list[str]) -> Iterator[None]:
    """Continues after an expected error, whose message is appended to a list."""
    try:
        yield
    except VkdError as error:
        missing.append(str(error).replace("\n", "; "))

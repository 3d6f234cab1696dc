"""The files: a report about runs, and progress.html in the folder of a run in training."""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from gan_vkd.report.page.pictures import embedded, relative
from gan_vkd.report.page.reading import view
from gan_vkd.report.page.render import Page, page, render
from gan_vkd.report.page.subject import Subject
from gan_vkd.report.page.views import name_apart
from gan_vkd.runtime.errors import one_line
from gan_vkd.runtime.files import require_writable, write_text
from gan_vkd.runtime.task import Status

REFRESH = 20  # seconds between two loads of the page of a run in training


def write_report(subject: Subject[Any], folders: list[Path], out: Path, baseline: str) -> list[str]:
    """Writes one HTML file that needs no other, and returns a line for each thing that is missing.

    Args:
        subject: of the program whose runs they are.
        folders: run folders.
        out: the file.
        baseline: the arm that differences are taken to.

    Raises:
        VkdError: no folder, or the file cannot be written.
    """
    require_writable(out)
    views = [view(subject, folder) for folder in folders]
    name_apart(views)
    shown = page(subject, views, baseline, embedded)
    write_text(out, render(shown))
    return shown.missing


class ProgressPage:
    """progress.html in the folder of a run in training; it refers to the images there.

    Training continues without the page if it cannot be made: the first failure is reported and ends
    it.
    """

    def __init__(self, subject: Subject[Any], folder: Path) -> None:
        self.subject, self.folder, self.file = subject, folder, folder / "progress.html"
        self._is_said, self._has_failed = False, False

    def __call__(self, status: Status) -> None:
        """Writes the page anew."""
        if self._has_failed:
            return
        try:
            write_text(self.file, render(self._page(status)))
        except Exception as error:  # whatever it is, the run is worth more
            self._has_failed = True
            tqdm.write(f"{self.file}: not written from now on ({one_line(error)})")
            return
        if not self._is_said:
            tqdm.write(f"{self.file}: open it in a browser to follow the run")
        self._is_said = True

    def _page(self, status: Status) -> Page:
        shown = view(self.subject, self.folder)
        shown.state = status.state
        made = page(self.subject, [shown], shown.arm, relative)
        made.now, made.missing, made.own_files = str(status), [], True
        made.refresh = REFRESH if status.is_running else 0
        return made

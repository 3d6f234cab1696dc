"""progress.html of a run in training."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gan_vkd.report.page import write
from gan_vkd.report.page.write import ProgressPage
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.stopping import Stopped
from gan_vkd.runtime.task import Status
from gan_vkd.training import train
from tests.conftest import WRITE_PAGE, MakeSettings
from tests.test_divergence import inject_nan
from tests.test_report import Parsed

Pages = list[Parsed]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    """Every progress.html that is written."""
    found: Pages = []

    def written(page: ProgressPage, status: Status) -> None:
        WRITE_PAGE(page, status)
        if page.file.exists():
            found.append(Parsed(page.file))

    monkeypatch.setattr(ProgressPage, "__call__", written)
    return found


@pytest.fixture
def settings(small: MakeSettings) -> Callable:
    """Of a run of four iterations, without a judge, with a grid every second one."""
    return small(
        "evaluate.features=null", "train.iterations=4", "train.sample_every=2", "evaluate.every=4",
        arm="none",
    )  # fmt: skip


def states(pages: Pages) -> list[str]:
    lines = [re.search(r'<p class="now">([^<]*)</p>', page.source) for page in pages]
    return [line[1] for line in lines if line]


def is_loaded_again(page: Parsed) -> bool:
    return any(a.get("http-equiv") == "refresh" for _, a in page.attributes)


def test_the_page_follows_a_run_without_a_judge(
    settings: Callable, pages: Pages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(settings, run)
    first, grid, last = pages
    assert states([first, last]) == [
        "running: iteration 0 of 4", "finished: iteration 4 of 4",
    ]  # fmt: skip
    assert re.fullmatch(r"running: iteration 2 of 4, about \d:\d\d:\d\d left", *states([grid]))
    assert [is_loaded_again(page) for page in pages] == [True, True, False]
    assert f"{run / 'progress.html'}: open it in a browser" in capsys.readouterr().out
    images = [a["src"] or "" for tag, a in last.attributes if tag == "img"]
    assert images == ["samples/00000002.png", "samples/00000004.png", "scores/00000004.png"]
    assert all((run / image).is_file() for image in images)
    assert [address for address in last.addresses if not address.startswith("#")] == images
    assert "d_loss" in last.text
    assert "What is missing" not in last.text
    assert "svg" not in first.tags


def test_the_page_says_that_a_run_was_stopped(
    settings: Callable, pages: Pages, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        train(settings, tmp_path / "run", max_time=0)
    assert states(pages)[-1] == "stopped: iteration 1 of 4"
    assert not is_loaded_again(pages[-1])


def test_the_page_says_that_a_run_diverged(
    settings: Callable, pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject_nan(monkeypatch, 0)
    with pytest.raises(VkdError, match="not finite"):
        train(settings, tmp_path / "run")
    assert states(pages)[-1].startswith("diverged: iteration 1 of 4, ")
    assert "d_loss is not finite at iteration 1" in states(pages)[-1]
    assert not is_loaded_again(pages[-1])


def test_a_page_that_cannot_be_written_ends_no_run(
    settings: Callable, pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(page: object) -> str:
        raise OSError("no\nspace")

    monkeypatch.setattr(write, "render", fail)
    train(settings, tmp_path / "run")
    printed = capsys.readouterr().out
    line = f"{tmp_path / 'run' / 'progress.html'}: not written from now on (no space)"
    assert printed.count(line) == printed.count("progress.html") == 1
    assert "finished" in printed
    assert pages == []

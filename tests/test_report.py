"""`vkd report`: one HTML file that needs nothing else, whatever the runs' folders hold."""

import base64
import io
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gan_vkd import cli
from gan_vkd.report.html import GANS, report
from gan_vkd.report.page import charts
from gan_vkd.report.page.pictures import MOST_FRAMES, SIDE, embedded, evenly
from gan_vkd.report.page.reading import view
from gan_vkd.report.pictures import save_png
from gan_vkd.report.tables import half_interval
from tests.processes import called

JUDGES = ("FD(one)", "FD(other)")
VOID = {"meta", "img", "input", "br", "link"}
ADDRESSES = ("src", "href", "xlink:href", "action", "data", "srcset", "poster")


class Parsed(HTMLParser):
    """The elements of a page, their addresses, its text outside of styles; checks the nesting."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.source = "", file.read_text()
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    @property
    def addresses(self) -> list[str]:
        """What a browser could load: in attributes, in styles and by `@import`."""
        found = [a[key] or "" for _, a in self.attributes for key in ADDRESSES if key in a]
        found += re.findall(r"url\(\s*['\"]?([^)'\"]*)", self.source)
        return found + re.findall(r"@import.*", self.source)


def evaluation(iteration: int, distance: float, images: int = 1000) -> dict[str, Any]:
    judges = [
        {"frechet_name": name, "kernel_name": name.replace("F", "K"), "identity": name,
         "frechet": distance * (1 + place), "kernel": 0.01}
        for place, name in enumerate(JUDGES)
    ]  # fmt: skip
    return {
        "iteration": iteration, "seconds": iteration / 10, "judges": judges, "precision": 0.5,
        "recall": 0.25, "memorised": 0.1, "memorised_by_chance": 0.3, "leaked": 0.0,
        "reference": "heldout", "reference_images": 100, "num_samples": 200,
        "training_images": images,
    }  # fmt: skip


@pytest.fixture
def make_run(small: Callable, tmp_path: Path) -> Callable[..., Path]:
    """make_run(arm, seed, distance): a folder as a run of two evaluations leaves it."""

    def make(arm: str, seed: int = 0, distance: float = 5.0, images: int = 1000) -> Path:
        folder = tmp_path / f"run {len(list(tmp_path.glob('run *')))}"
        folder.mkdir()
        settings = small(f"seed={seed}", "train.iterations=4", arm="none")
        settings = settings.model_copy(update={"arm": arm})
        (folder / "settings.yaml").write_text(settings.dump())
        records: list[dict[str, Any]] = []
        for now in (1, 2, 3, 4):
            records.append(
                {"iteration": now, "seconds": now / 10, "d_loss": 1 / now, "ada_p": 0.1 * now,
                 "gradient_ratio": 1.0, "memory_gib": 0.5}
            )  # fmt: skip
            if now % 2 == 0:
                records.append(evaluation(now, distance / now, images))
                for kind in ("samples", "scores"):
                    save_png(picture(now), folder / kind / f"{now:08d}.png")
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        (folder / "exit_code").write_text("0\n")
        save_png(picture(9), folder / "neighbours.png")
        return folder

    return make


def picture(seed: int, side: int = 8) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=source)


def images_of(page: Parsed) -> list[bytes]:
    sources = [a["src"] or "" for tag, a in page.attributes if tag == "img"]
    return [base64.b64decode(source.partition("base64,")[2]) for source in sources]


def test_a_report_has_everything_and_loads_nothing(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    runs = [
        make_run(arm, seed, distance)
        for arm, distance in (("none", 5.0), ("vkd", 4.0))
        for seed in (0, 1)
    ]
    out = tmp_path / "out.html"
    ended = called(cli.main, "report", *map(str, runs), "--out", str(out))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{out}\n", "")
    page = Parsed(out)
    assert all(address.startswith(("data:", "#")) for address in page.addresses), page.addresses
    known = {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}  # names, not loaded
    assert set(re.findall(r"\b\w+://[^\s\"'<]*", page.source)) == known
    for text in (
        "none, seed 0", "vkd, seed 1", "finished", "0.50 GiB", *JUDGES, "precision", "memorised",
        "leaked", "less none at the same seed", "Settings that differ", "95% interval", "d_loss",
        "ada_p", "gradient_ratio", "ms_per_iteration", "Nearest training images", "iterations: 4",
    ):  # fmt: skip
        assert text in page.text, text
    assert page.tags["img"] == 4 * (2 + 1 + 2)
    assert {Image.open(io.BytesIO(data)).format for data in images_of(page)} == {"WEBP"}
    steps = [json.loads(a["data-steps"] or "") for _, a in page.attributes if "data-steps" in a]
    assert steps == [[2, 4], [], [2, 4]]
    assert page.tags["svg"] == 2 + 4 + 9 + 1, "over seeds, distances, other records, pace"
    policies = [a["content"] or "" for _, a in page.attributes if "Security" in str(a)]
    assert policies[0].startswith("default-src 'none'; ")
    assert not [a for tag, a in page.attributes if tag == "meta" and "refresh" in str(a)]


def test_strangers_text_is_escaped(make_run: Callable[..., Path], tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>$x$\u202e"
    run = make_run("none")
    settings = (run / "settings.yaml").read_text()
    (run / "settings.yaml").write_text(
        settings.replace("arm: none", "arm: '<img src=//x onerror=y>'")
    )
    records = [{"iteration": i, "seconds": 1.0, bad: 1.0, "tensor": bad} for i in (1, 2)]
    records.append(json.loads(json.dumps(evaluation(3, 1.0)).replace("FD(one)", f"FD({bad[:12]})")))
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert report([run, make_run("other")], tmp_path / "out.html", "none") == []
    page = Parsed(tmp_path / "out.html")
    assert page.tags["script"] == 1
    assert all(a["src"].startswith("data:image/webp;") for t, a in page.attributes if t == "img")
    assert not any(key.startswith("on") for _, a in page.attributes for key in a)
    assert "\u202e" not in page.source
    assert "<script>alert(1)</script>$x$" in page.text


def test_a_damaged_run_gives_what_there_is(make_run: Callable[..., Path], tmp_path: Path) -> None:
    whole, torn, linked, empty = (make_run(arm) for arm in ("whole", "torn", "linked", "empty"))
    (torn / "settings.yaml").write_text("arm: [")
    with (torn / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": "x"}\n{"judges": 5}\n{"iteration": 5, "d_lo')
    (torn / "samples" / "00000004.png").write_bytes(b"no image")
    secret = tmp_path / "secret.png"
    save_png(picture(3), secret)
    for place in (linked / "neighbours.png", linked / "samples" / "00000002.png"):
        place.unlink()
        place.symlink_to(secret)
    shutil.rmtree(linked / "scores")
    (linked / "scores").symlink_to(whole / "scores")
    (linked / "metrics.jsonl").rename(linked / "elsewhere")
    (linked / "metrics.jsonl").symlink_to(linked / "elsewhere")
    for name in ("metrics.jsonl", "neighbours.png", "exit_code"):
        (empty / name).unlink()
    out = tmp_path / "out.html"
    missing = report([whole, torn, linked, empty], out, "whole")
    page = Parsed(out)
    for run, line in (
        (torn.name, "not YAML"),
        (torn.name, "2 records of this kind are left out"),
        (torn.name, "00000004.png: not an image"),
        ("linked", "neighbours.png: a symbolic link, not followed"),
        ("linked", "00000002.png: a symbolic link, not followed"),
        ("linked", "scores: a symbolic link, not followed"),
        ("linked", "metrics.jsonl: a symbolic link, not followed"),
        ("empty", "metrics.jsonl: no records yet"),
        ("empty", "no evaluation yet"),
    ):
        (found,) = (m for m in missing if line in m)
        assert found.startswith(f"{run}"), found
        assert found in page.text
        assert "\n" not in found
    assert len(missing) == 9
    assert page.tags["img"] == 5 + (1 + 1 + 2) + 1 + (2 + 2)
    assert "running, failed or killed" in page.text
    assert view(GANS, torn).series()["d_loss"] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = called(cli.main, "report", str(tmp_path / "file"), "--out", str(tmp_path / "x.html"))
    assert ended.returncode == 1
    assert ended.stderr == f"vkd: {tmp_path / 'file'}: not a run folder\n"
    assert not (tmp_path / "x.html").exists()


def test_the_same_arm_and_seed_twice_has_curves_and_no_table(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    (line,) = report([make_run("none"), make_run("none")], tmp_path / "out.html", "none")
    assert line.startswith("no tables: two runs of arm none at seed 0")
    text = Parsed(tmp_path / "out.html").text
    assert "none, seed 0 (run 1)" in text
    assert "none, seed 0 (run 2)" in text


def test_few_pictures_and_rollbacks_are_warned_of(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_run("none", images=10)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"iteration": 2, "rollbacks": 1, "from": 3, "tensor": "d_loss"}))
    report([run], tmp_path / "out.html", "none")
    text = Parsed(tmp_path / "out.html").text
    assert "none, seed 0: few pictures: fewer than 100 training images" in text
    assert "d_loss was not finite; rolled back to iteration 2" in text


def test_images_are_scaled_down_and_few(tmp_path: Path) -> None:
    save_png(picture(0, 2 * SIDE), tmp_path / "large.png")
    data = embedded(tmp_path, tmp_path / "large.png").partition("base64,")[2]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (SIDE, SIDE)
    files = [Path(str(number)) for number in range(1000)]
    for count in (1, MOST_FRAMES, MOST_FRAMES + 1, 1000):
        chosen = evenly(files[:count], MOST_FRAMES)
        assert len(set(chosen)) == len(chosen) == min(count, MOST_FRAMES)
        assert (chosen[0], chosen[-1]) == (files[0], files[count - 1])


def test_long_curves_are_means_of_neighbours() -> None:
    series = [(i, float(i % 3)) for i in range(1, 2 * charts.MOST_POINTS + 1)]
    thinned = charts._thinned(series)
    assert len(thinned) == charts.MOST_POINTS
    assert thinned[:2] == [(2, 1.5), (4, 0.5)]
    assert charts._thinned(series[:5]) == series[:5]


@pytest.mark.parametrize("value", [1e100, -1e100, 0.0, 1e-300])
def test_any_number_is_drawn(value: float) -> None:
    svg = charts._lines([(charts.ARMS[0], [(1, value), (2**53, -value)])])
    assert svg.startswith("<svg")
    assert "var(--arm0)" in svg
    assert "currentColor" in svg
    assert not re.search(r'id="(?!m|p)|font-family|#[0-9a-f]{6}"', svg)


def test_the_interval_of_a_mean() -> None:
    assert half_interval([1.0, 3.0]) == pytest.approx(math.tan(0.95 * math.pi / 2), rel=1e-9)

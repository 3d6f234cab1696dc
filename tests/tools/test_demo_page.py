"""The page of the demo: called by Gradio's client, and used in a headless browser.

Needs Gradio; the browser's tests need Playwright and a Chromium: apt-get install chromium.
"""

import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import torch
from PIL import Image

from gan_vkd.demo.pictures import drawn
from gan_vkd.demo.runs import open_run
from gan_vkd.demo.server import served
from gan_vkd.report.pictures import save_png
from tests.tools.conftest import pixels

gradio_client = pytest.importorskip("gradio_client")
pytest.importorskip("gradio")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LOCAL = {"127.0.0.1", "localhost", "::1"}
SLOW = 120_000  # milliseconds that a busy machine may take


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """Hosts that this process has connected to."""
    return []


@pytest.fixture(scope="module")
def address(runs: dict[str, Path], asked: list[str]) -> Iterator[str]:
    """The page of both runs, served by this process."""
    connect = socket.socket.connect

    def noted(self: socket.socket, where: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            asked.append(where[0])
        connect(self, where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", dict(os.environ))
        patch.setattr(socket.socket, "connect", noted)
        paths = [runs["stylegan2"], runs["biggan"]]
        with served(paths, "127.0.0.1", 0, "cpu") as where:
            yield where


@pytest.fixture(scope="module")
def client(address: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    files = tmp_path_factory.mktemp("downloads")
    return gradio_client.Client(
        address, verbose=False, analytics_enabled=False, download_files=files
    )


def test_the_client_draws_samples(client: Any, runs: dict[str, Path]) -> None:
    made = client.predict("stylegan2", "0-1,42", "dog", 0.5, api_name="/draw")
    expected = drawn(open_run(runs["stylegan2"], "cpu"), "0-1,42", "dog", 0.5)
    for got, picture in zip(made, expected, strict=True):
        assert got["caption"] == picture.caption
        assert Path(got["image"]).name == picture.name
        assert torch.equal(pixels(Path(got["image"])), picture.image)


def test_the_client_interpolates_and_compares(client: Any) -> None:
    strip, video = client.predict("biggan", 3, 8, 4, "", 1.0, api_name="/interpolate")
    assert pixels(Path(strip)).shape == (3, 34, 5 * 33 + 1)
    with Image.open(video) as gif:
        assert (gif.format, gif.n_frames, gif.size) == ("GIF", 8, (128, 128))
    both = client.predict("stylegan2", "biggan", "0-1", "cat", 1.0, api_name="/compare")
    captions = [[picture["caption"] for picture in side["value"]] for side in both]
    assert captions == [["seed 0, cat", "seed 1, cat"]] * 2


def test_the_client_projects_an_uploaded_picture(
    client: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    (picture,) = drawn(open_run(runs["stylegan2"], "cpu"), "7", None, 1.0)
    save_png(picture.image, tmp_path / "mine.png")
    file = gradio_client.handle_file(tmp_path / "mine.png")
    made = client.predict("stylegan2", file, "w", 10, 0, "", api_name="/project")
    assert torch.equal(pixels(Path(made[0])), picture.image)
    assert "PSNR" in made[2]
    assert sorted(Path(name).name for name in made[3]["value"])[-2:] == [
        "projected.safetensors",
        "projection.png",
    ]


def test_what_cannot_be_done_is_a_message(client: Any, tmp_path: Path) -> None:
    def refused(*values: Any, api_name: str) -> str:
        with pytest.raises(gradio_client.exceptions.AppError) as caught:
            client.predict(*values, api_name=api_name)
        return str(caught.value)

    assert "seeds 3-1: expected" in refused("biggan", "3-1", "", 1.0, api_name="/draw")
    (tmp_path / "text.png").write_text("x")
    file = gradio_client.handle_file(tmp_path / "text.png")
    message = refused("biggan", file, "z", 10, 0, "", api_name="/project")
    assert "text.png: not an image" in message
    assert "/" not in message.replace("http://", "")
    assert "choose a picture" in refused("biggan", None, "z", 10, 0, "", api_name="/project")
    tag = refused("biggan", "<b>", "", 1.0, api_name="/draw")
    assert "&lt;b&gt;" in tag  # Gradio renders messages as HTML


def test_files_outside_of_the_demo_are_not_served(client: Any, runs: dict[str, Path]) -> None:
    secret = runs["biggan"] / "settings.yaml"
    with pytest.raises(OSError, match="403"):
        urlopen(f"{client.src}gradio_api/file={secret}")


def test_the_served_page_loads_nothing_from_other_hosts(address: str) -> None:
    with urlopen(address) as answer:
        page = answer.read().decode()
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']([^\"']+)", page)
    assert loaded
    assert {urlsplit(where).hostname for where in loaded} <= {None, *LOCAL}
    assert "Content-Security-Policy" in page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    if not found:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as started:
        # as root, as in a container, Chromium runs without its sandbox only
        browser = started.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that is open in a browser; notes errors of its console and hosts that it asks."""

    def __init__(self, browser: Any, address: str, width: int, height: int, scheme: str) -> None:
        size = {"width": width, "height": height}
        self.page = browser.new_page(viewport=size, color_scheme=scheme)
        self.page.set_default_timeout(SLOW)
        self.errors: list[str] = []
        self.hosts: set[str | None] = set()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))
        self.page.goto(address)
        self.page.get_by_alt_text("seed 15").wait_for()

    def _note(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab).click()

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()

    def sources(self) -> list[str]:
        """Addresses of the samples."""
        found = self.page.get_by_alt_text("seed ")
        return found.evaluate_all("images => images.map(image => image.src)")


def test_in_a_browser(chromium: Any, address: str, asked: list[str], tmp_path: Path) -> None:
    visit = Visit(chromium, address, 1280, 900, "light")
    page, first = visit.page, visit.sources()
    assert len(first) == 16
    slider = page.get_by_label("range slider for Truncation psi")
    slider.click(position={"x": 2, "y": 4})  # its lower end
    page.wait_for_function(
        "old => document.querySelector('img[alt^=seed]').src != old", arg=first[0]
    )
    mean = {page.request.get(where).body() for where in visit.sources()}
    assert len(mean) == 1

    visit.open("Interpolate")
    visit.press("Interpolate")
    page.wait_for_selector("img[src$='.gif']")
    with page.expect_download() as download:
        page.get_by_role("tabpanel").get_by_test_id("download-link").last.click()
    assert download.value.suggested_filename == "seeds0-1.gif"

    visit.open("Compare")
    visit.press("Compare")
    page.get_by_role("tabpanel").get_by_alt_text("seed 7").nth(1).wait_for()

    (tmp_path / "mine.png").write_bytes(page.request.get(first[0]).body())
    visit.open("Project")
    page.locator("input[type=file]").set_input_files(tmp_path / "mine.png")
    page.get_by_text("mine.png").wait_for()
    visit.press("Project")
    page.wait_for_selector("img[src*='step0']")
    visit.press("Stop")

    assert visit.errors == []
    assert visit.hosts <= {None, *LOCAL}  # None: data and blob addresses
    assert set(asked) <= LOCAL
    refused = page.evaluate(
        "new Promise(refused => {"
        "  addEventListener('securitypolicyviolation', event => refused(event.blockedURI));"
        "  fetch('http://192.0.2.1/').catch(() => {}); })"
    )
    assert refused.startswith("http://192.0.2.1")
    page.close()


def test_on_a_phone_in_the_dark(chromium: Any, address: str) -> None:
    visit = Visit(chromium, address, 390, 844, "dark")
    for tab in ("Interpolate", "Compare", "Project", "Samples"):
        visit.open(tab)
        width = visit.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, tab
    red = visit.page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.slice(4))")
    assert red < 60
    assert visit.errors == []
    visit.page.close()

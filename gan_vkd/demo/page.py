"""The page of the demo, made of Gradio's components."""

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from gan_vkd.demo.files import Folders, saved
from gan_vkd.demo.pictures import between, compared, drawn
from gan_vkd.demo.projection import projected
from gan_vkd.demo.runs import Shown
from gan_vkd.report.pictures import save_png
from gan_vkd.runtime.errors import VkdError, one_line_without_memory
from gan_vkd.tools.captions import enlarged
from gan_vkd.tools.video import write_video

FPS = 20  # of an interpolation
LARGEST_SEED = 2**32 - 1
TYPES = ["image", ".heic", ".heif"]  # of uploaded files, which the browser offers
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
# Pixels are not blurred, transparency is a chequerboard, labels stand above pictures and captions
# below them, and all tabs fit on a phone.
CSS = """
.pixels img { image-rendering: pixelated;
  background: repeating-conic-gradient(#bbb 0 25%, #eee 0 50%) 0 / 16px 16px; }
.pixels .grid-wrap, .pixels .image-container { padding-top: 40px !important; }
.pixels .grid-wrap { max-height: none !important; min-height: 0 !important; }
.pixels .grid-container { grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)) !important; }
.pixels .thumbnail-item { aspect-ratio: auto !important; height: auto !important; }
.pixels .caption-label { position: static !important; max-width: none !important;
  border: 0 !important; text-align: center; }
.pixels .image-container button, .pixels .image-frame { width: 100%; }
.pixels .image-container img { width: 100%; max-height: 70vh; object-fit: contain; }
@media (max-width: 500px) { .tab-container button { padding: 0 6px !important; } }
"""
# The browser refuses what the page might ask of other hosts.
HEAD = """<meta http-equiv="Content-Security-Policy"
  content="default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:">"""


class Controls(NamedTuple):
    """What all tabs have in common: the run, a class, and the truncation."""

    run: Any
    chosen: Any
    psi: Any


@contextmanager
def messages() -> Iterator[None]:
    """Turns expected failures into a message on the page, as text, since names may be a stranger's;
    Gradio renders its messages as HTML."""
    try:
        with one_line_without_memory("fewer pictures, or vkd demo --device cpu"):
            yield
    except VkdError as error:
        raise gr.Error(escape(str(error)), print_exception=False) from None


def build(runs: dict[str, Shown], folder: Path) -> gr.Blocks:
    """The page of runs by their names; folder: for the files that it shows."""
    first, folders = next(iter(runs.values())), Folders(folder)
    with gr.Blocks(title="vkd demo", analytics_enabled=False) as page:
        about = gr.HTML(escape(first.about))
        with gr.Row():
            controls = Controls(
                gr.Dropdown(list(runs), label="Run", visible=len(runs) > 1, min_width=240),
                gr.Dropdown(**_classes(first), min_width=240),
                gr.Slider(0, 2, 1, step=0.05, label="Truncation psi", visible=first.truncates),
            )
        with gr.Tab("Samples"):
            _samples(runs, controls, folders, page)
        with gr.Tab("Interpolate"):
            _interpolation(runs, controls, folders)
        if len(runs) > 1:
            with gr.Tab("Compare"):
                _comparison(runs, controls, folders)
        with gr.Tab("Project"):
            space = _projection(runs, controls, folders)

        def choose(name: str) -> list[Any]:
            run = runs[name]
            return [
                escape(run.about),
                gr.Dropdown(**_classes(run)),
                gr.Slider(visible=run.truncates),
                gr.Radio(**_spaces(run)),
            ]

        changed = [about, controls.chosen, controls.psi, space]
        controls.run.change(choose, controls.run, changed, api_visibility="private")
    return page


def _classes(run: Shown) -> dict[str, Any]:
    """Options of the choice of a class, of which the first one is no choice."""
    choices = [("any", ""), *((name, name) for name in run.classes)]
    return {"choices": choices, "value": "", "label": "Class", "visible": bool(run.classes)}


def _spaces(run: Shown) -> dict[str, Any]:
    """Options of the choice of a latent space."""
    spaces = run.spaces
    return {"choices": spaces, "value": spaces[0], "label": "Space", "visible": len(spaces) > 1}


def _gallery(label: str) -> gr.Gallery:
    buttons = ["download", "download_all", "fullscreen"]
    return gr.Gallery(label=label, buttons=buttons, height="auto", elem_classes="pixels")


def _picture(label: str) -> gr.Image:
    buttons = ["download", "fullscreen"]
    return gr.Image(label=label, buttons=buttons, interactive=False, elem_classes="pixels")


def _seed(label: str, value: int) -> gr.Number:
    return gr.Number(value, label=label, precision=0, minimum=0, maximum=LARGEST_SEED)


def _samples(runs: dict[str, Shown], controls: Controls, folders: Folders, page: gr.Blocks) -> None:
    seeds = gr.Textbox("0-15", label="Seeds", info="Numbers and ranges, such as 0-15,42")
    button = gr.Button("Draw", variant="primary")
    gallery = _gallery("Samples")

    def draw(name: str, seeds: str, chosen: str, psi: float) -> list[tuple[str, str]]:
        with messages():
            return saved(drawn(runs[name], seeds, chosen or None, psi), folders.new())

    triggers = [
        page.load, button.click, seeds.submit, controls.psi.release, controls.chosen.input,
        controls.run.input,
    ]  # fmt: skip
    inputs = [controls.run, seeds, controls.chosen, controls.psi]
    gr.on(triggers, draw, inputs, gallery, api_name="draw", trigger_mode="always_last")


def _interpolation(runs: dict[str, Shown], controls: Controls, folders: Folders) -> None:
    with gr.Row():
        first, second = _seed("From seed", 0), _seed("To seed", 1)
        steps = gr.Slider(2, 60, 15, step=1, label="Steps")
    button = gr.Button("Interpolate", variant="primary")
    with gr.Row():
        strip, video = _picture("Steps"), _picture("There and back (GIF)")

    def interpolate(
        name: str, first: int, second: int, steps: int, chosen: str, psi: float
    ) -> tuple[str, str]:
        with messages():
            image, frames = between(runs[name], first, second, steps, chosen or None, psi)
            folder, shown = folders.new(), f"seeds{first}-{second}"
            save_png(image, folder / f"{shown}.png")
            walk = (enlarged(frame, 128) for frame in frames)
            write_video(walk, folder / f"{shown}.gif", FPS)
            return str(folder / f"{shown}.png"), str(folder / f"{shown}.gif")

    inputs = [controls.run, first, second, steps, controls.chosen, controls.psi]
    button.click(interpolate, inputs, [strip, video], api_name="interpolate")


def _comparison(runs: dict[str, Shown], controls: Controls, folders: Folders) -> None:
    names = list(runs)
    with gr.Row():
        other = gr.Dropdown(names, value=names[1], label="Compared with", min_width=240)
        seeds = gr.Textbox("0-7", label="Seeds", info="A seed has the same z in both runs")
    button = gr.Button("Compare", variant="primary")
    with gr.Row():
        with gr.Column(min_width=120):
            left = _gallery("Run")
        with gr.Column(min_width=120):
            right = _gallery("Compared with")

    def compare(name: str, other: str, seeds: str, chosen: str, psi: float) -> list[Any]:
        with messages():
            both = compared(runs[name], runs[other], seeds, chosen or None, psi)
            return [
                gr.Gallery(saved(pictures, folders.new()), label=label)
                for pictures, label in zip(both, (name, other), strict=True)
            ]

    inputs = [controls.run, other, seeds, controls.chosen, controls.psi]
    button.click(compare, inputs, [left, right], api_name="compare")


def _projection(runs: dict[str, Shown], controls: Controls, folders: Folders) -> gr.Radio:
    """Returns the choice of the space, which depends on the run."""
    with gr.Row():
        file = gr.File(label="Picture", file_types=TYPES, height=200)
        with gr.Column():
            space = gr.Radio(**_spaces(next(iter(runs.values()))))
            steps = gr.Slider(10, 2000, 200, step=10, label="Steps")
            seed = _seed("Seed", 0)
    with gr.Row():
        button, stop = gr.Button("Project", variant="primary"), gr.Button("Stop", variant="stop")
    line = gr.Textbox(label="Distances", max_lines=3)
    with gr.Row():
        target, image = _picture("Target"), _picture("Projection")
    files = gr.Files(label="Files", visible=False)

    def project(
        name: str, file: str | None, space: str, steps: int, seed: int | None, chosen: str
    ) -> Iterator[list[Any]]:
        with messages():
            if file is None:
                raise VkdError("choose a picture first")
            if seed is None:  # an empty field
                raise VkdError("choose a seed first")
            folder, options = folders.new(), (space, chosen or None, steps, seed, folders.new())
            for now in projected(runs[name], Path(file), *options):
                save_png(now.target, folder / "target.png")
                save_png(now.image, folder / now.name)
                made = gr.Files([str(file) for file in now.files], visible=bool(now.files))
                yield [str(folder / "target.png"), str(folder / now.name), now.line, made]

    inputs = [controls.run, file, space, steps, seed, controls.chosen]
    going = button.click(project, inputs, [target, image, line, files], api_name="project")
    stop.click(None, cancels=going)
    return space

"""The commands of vkd-classify."""

import os
from pathlib import Path
from typing import Annotated

import typer

from gan_vkd.front import Front, Overrides, RunOrFile, commands, example, run_app, run_folders
from gan_vkd.runtime.terminal import result
from gan_vkd.script_options import for_scripts

front = Front(
    program="vkd-classify",
    module="classification",
    settings=("cifar10_vit", "cifar10_vit_vkd"),
    about="Recognition with knowledge distilled from frozen teachers. Detection: vkd-detect.",
    trained="a student",
    best="student",
    sweeps=Path("runs/classification"),
    load="classification.recognition.settings:load_settings",
    train="classification.recognition.training:train",
    dry_run="classification.recognition.training:dry_run",
    tables="classification.recognition.compare:compare",
    report="classification.recognition.compare:report",
    export="classification.recognition.exchange:export_student",
    formats="*.safetensors or *.pth (timm), *.pth.tar (VkD's released code), or *.onnx.",
    evaluate="classification.recognition.evaluation:evaluate_run",
    images=Path("imagenet"),
    implied="classification.recognition.weights:implied",
    measures="e.g. data.heldout=PATH: top-1 and top-5, exact on any number of ranks",
    offline=("data.download=false",),
)
app = commands(front)


def main() -> None:
    run_app(app)


@app.command(epilog=example("vkd-classify export runs/mine mine.safetensors"))
@for_scripts
def export(
    run: RunOrFile,
    out: Annotated[Path, typer.Argument(help=front.formats)],
    overrides: Overrides = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="OUT is a folder, in the layout of huggingface_hub.")
    ] = False,
) -> None:
    """Export a run's best student, or a file's, alone or for the Hugging Face Hub."""
    if hub:
        from classification.recognition.hub import export_student as export_to_hub

        result(export_to_hub(run, out), file=out)
        return
    from classification.recognition.weights import given_student

    result(front.function("export")(run, out, given_student(overrides or [])), file=out)


@app.command(epilog=example("vkd-classify features runs/mine runs/other --out figures"))
@for_scripts
def features(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|FILE... [KEY.SUB=VALUE]...",
            help="Run folders or files of weights to show side by side; settings of the files.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the figures.")],
    count: Annotated[int, typer.Option(min=1, max=32, help="Number of images shown.")] = 6,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Plot similarity to the teacher's feature, attention, and equivariance to shifts."""
    overrides = [item for item in arguments if "=" in item and not os.path.lexists(item)]
    runs = run_folders([Path(item) for item in arguments if item not in overrides])

    from classification.recognition.features import look

    files = look(runs, out, count, device, overrides)
    result("\n".join(map(str, files)), files=files)

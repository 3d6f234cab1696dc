"""vkd-classify train | sweep | compare | evaluate | features | export"""

from pathlib import Path
from typing import Annotated

import typer

from gan_vkd.front import Front, commands, run_app, run_folders

front = Front(
    module="classification",
    about="Recognition with knowledge distilled from frozen teachers. Detection: vkd-detect.",
    trained="a student",
    best="student",
    sweeps=Path("runs/classification"),
    load="classification.recognition.settings:load_settings",
    train="classification.recognition.training:train",
    tables="classification.recognition.compare:compare",
    export="classification.recognition.exchange:export_student",
    formats="*.safetensors or *.pth (timm), or *.onnx.",
    evaluate="classification.recognition.evaluation:evaluate_run",
    measures="e.g. data.heldout=PATH: top-1 and top-5, exact on any number of ranks",
    offline=("data.download=false",),
)
app = commands(front)


def main() -> None:
    run_app(app)


@app.command()
def features(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders to show side by side.", callback=run_folders)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the figures.")],
    count: Annotated[int, typer.Option(min=1, max=32, help="Number of images shown.")] = 6,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Plot similarity to the teacher's feature, attention, and equivariance to shifts."""
    from classification.recognition.features import look

    for file in look(runs, out, count, device):
        print(file)

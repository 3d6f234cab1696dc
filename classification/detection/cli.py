"""The commands of vkd-detect."""

from pathlib import Path
from typing import Annotated

import typer

from gan_vkd.front import (
    Baseline,
    ConfigsAndOverrides,
    DryRun,
    Front,
    Jobs,
    Out,
    RunOrFile,
    Runs,
    Seeds,
    Slurm,
    SweepOut,
    commands,
    example,
    existing,
    run_app,
)
from gan_vkd.runtime.terminal import result
from gan_vkd.script_options import for_scripts

Target = Annotated[
    float, typer.Option(min=0, max=100, help="AP50 in percent; tables have the updates to it.")
]


front = Front(
    program="vkd-detect",
    module="classification.detection",
    settings=("coco_vidt_nano", "coco_vidt_nano+objectives/vidt_vkd"),
    about="Detection with knowledge distilled from a frozen ViDT.",
    trained="a detector",
    best="detector",
    sweeps=Path("runs/detection"),
    load="classification.detection.settings:load_settings",
    train="classification.detection.training:train",
    dry_run="classification.detection.training:dry_run",
    tables="classification.detection.compare:compare",
    report="classification.detection.compare:report",
    export="classification.detection.run:export_detector",
    formats="*.safetensors, or *.pth as ViDT's authors save.",
    evaluate="classification.detection.evaluation:evaluate_run",
    measures="e.g. data.heldout=val2017: COCO's AP, exact on any number of ranks",
    images=Path("coco_vidt_nano"),
    implied="classification.detection.run:implied",
    own=("sweep", "compare"),
)
app = commands(front)


def main() -> None:
    run_app(app)


@app.command(epilog=example(f"vkd-detect sweep {' '.join(front.settings)} --seeds 0 1 2"))
@for_scripts
def sweep(
    arguments: ConfigsAndOverrides,
    seeds: Seeds = None,
    jobs: Jobs = "auto",
    out: SweepOut = front.sweeps,
    slurm: Slurm = None,
    dry_run: DryRun = False,
    target: Target = 50.0,
) -> None:
    """Train every arm at every seed, then compare. Call again to continue."""
    front.sweep(arguments, seeds, jobs, out, slurm, dry_run, target=target)


@app.command(epilog=example("vkd-detect compare runs/mine runs/other --out runs/compared"))
@for_scripts
def compare(
    runs: Runs, out: Out, baseline: Baseline = front.baseline, target: Target = 50.0
) -> None:
    """Compare runs: AP, and the updates until an AP50 was reached."""
    front.compare(runs, out, baseline, target=target)


@app.command(epilog=example("vkd-detect export runs/mine mine.safetensors"))
@for_scripts
def export(run: RunOrFile, out: Annotated[Path, typer.Argument(help=front.formats)]) -> None:
    """Export a run's best detector, or a file's, for use without this project."""
    result(front.function("export")(run, out), file=out)


@app.command(epilog=example("vkd-detect predict runs/mine photo.jpg --out found"))
@for_scripts
def predict(
    run: Annotated[
        Path, typer.Argument(help="A run folder, or a file of weights.", callback=existing)
    ],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and detections.json.")],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Least score drawn.")] = 0.5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Detect objects in images: draw the boxes, and write them in COCO's results format."""
    from classification.detection.predict import predict as run_predict

    files = run_predict(run, images, out, threshold, device)
    names = [str(file).encode(errors="replace").decode() for file in files]
    result("\n".join(names), files=names)

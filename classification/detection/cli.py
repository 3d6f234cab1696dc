"""vkd-detect train | sweep | compare | evaluate | predict | export"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gan_vkd.runtime.command_line import (
    Config,
    ConfigsAndOverrides,
    Jobs,
    MaxTime,
    OutOrDefault,
    Overrides,
    Resume,
    RunFolder,
    Seeds,
    Slurm,
    SweepFolder,
    run_app,
    what_to_train,
)

app = typer.Typer(
    help="Detection with knowledge distilled from a frozen ViDT.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Target = Annotated[
    float, typer.Option(min=0, max=100, help="AP50 whose first reaching is told, in percent.")
]


def main() -> None:
    run_app(app)


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    out: OutOrDefault = None,
    resume: Resume = False,
    max_time: MaxTime = None,
) -> None:
    """Train a detector, alone or as one of torchrun's ranks. Exit codes: as of `vkd train`."""
    from classification.detection.settings import load_settings

    settings, folder, budget = what_to_train(load_settings, config, overrides, out, max_time)
    from classification.detection.training import train as run_training

    run_training(settings, folder, resume, budget)


@app.command()
def sweep(
    arguments: ConfigsAndOverrides,
    seeds: Seeds = None,
    jobs: Jobs = 1,
    out: SweepFolder = Path("runs/detection"),
    slurm: Slurm = None,
    target: Target = 50.0,
) -> None:
    """Train every arm at every seed, then compare. Call again to continue."""
    from classification.detection.settings import load_settings
    from gan_vkd.sweep.command import sweep_and_compare
    from gan_vkd.sweep.plan import Program

    program = Program([sys.executable, "-m", "classification.detection"], load_settings)
    table = partial(compare, out=out, target=target)
    sweep_and_compare(program, arguments, seeds, jobs, out, slurm, table)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option(help="Folder for table.md, table.csv, curves.png.")],
    baseline: Annotated[str, typer.Option(help="The arm that differences are taken to.")] = "plain",
    target: Target = 50.0,
) -> None:
    """Put runs side by side: AP, and the updates until an AP50 was reached."""
    from classification.detection.compare import compare as compare_runs

    print(compare_runs(runs, out, baseline, target))
    print(f"\n{out / 'table.md'}  {out / 'table.csv'}  {out / 'curves.png'}")


@app.command()
def evaluate(run: RunFolder, overrides: Overrides = None) -> None:
    """Measure a run's best detector, e.g. data.heldout=val2017: COCO's AP, exact over ranks."""
    from classification.detection.settings import load_settings

    settings = load_settings(run, overrides)
    from classification.detection.evaluation import evaluate_run

    for key, value in evaluate_run(run, settings).items():
        print(f"{key}: {value}")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder, or an exported detector.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and detections.json.")],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Score of what is drawn.")] = 0.5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Draw what a detector finds, and write it as COCO's results."""
    from classification.detection.predict import predict as run_predict

    for file in run_predict(run, images, out, threshold, device):
        print(str(file).encode(errors="replace").decode())


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(help="*.safetensors, or *.pth as ViDT's authors save.")],
) -> None:
    """Write a run's best detector without projections and teacher."""
    from classification.detection.run import export_detector

    print(export_detector(run, out))

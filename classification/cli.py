"""vkd-classify train | sweep | compare | evaluate | features | export"""

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
    help="Recognition with knowledge distilled from frozen teachers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    """Train a student, alone or as one of torchrun's ranks. Exit codes: as of `vkd train`."""
    from classification.recognition.settings import load_settings

    settings, folder, budget = what_to_train(load_settings, config, overrides, out, max_time)
    from classification.recognition.training import train as run_training

    run_training(settings, folder, resume, budget)


@app.command()
def sweep(
    arguments: ConfigsAndOverrides,
    seeds: Seeds = None,
    jobs: Jobs = 1,
    out: SweepFolder = Path("runs/classification"),
    slurm: Slurm = None,
) -> None:
    """Train every arm at every seed, then compare. Call again to continue."""
    from classification.recognition.settings import load_settings
    from gan_vkd.sweep.command import sweep_and_compare
    from gan_vkd.sweep.plan import Program

    program = Program([sys.executable, "-m", "classification"], load_settings)
    table = partial(compare, out=out)
    sweep_and_compare(program, arguments, seeds, jobs, out, slurm, table)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option(help="Folder for table.md, table.csv, curves.png.")],
    baseline: Annotated[str, typer.Option(help="The arm that differences are taken to.")] = "plain",
) -> None:
    """Put runs side by side: tables over runs and over seeds, and their curves."""
    from classification.recognition.compare import compare as compare_runs

    print(compare_runs(runs, out, baseline))
    print(f"\n{out / 'table.md'}  {out / 'table.csv'}  {out / 'curves.png'}")


@app.command()
def evaluate(run: RunFolder, overrides: Overrides = None) -> None:
    """Measure a run's best student, e.g. data.heldout=PATH: top-1 and top-5, exact over ranks."""
    from classification.recognition.settings import load_settings

    settings = load_settings(run, ["data.download=false", *(overrides or [])])
    from classification.recognition.evaluation import evaluate_run

    for key, value in evaluate_run(run, settings).items():
        print(f"{key}: {value}")


@app.command()
def features(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, side by side.")],
    out: Annotated[Path, typer.Option(help="A folder for the figures.")],
    count: Annotated[int, typer.Option(min=1, max=32, help="Images in a picture.")] = 6,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Look inside: similarity to the teacher's feature, attention, and equivariance to shifts."""
    from classification.recognition.features import look

    for file in look(runs, out, count, device):
        print(file)


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(help="*.safetensors or *.pth (timm), or *.onnx.")],
) -> None:
    """Write a run's best student without projection and teacher, for timm, torch.hub or ONNX."""
    from classification.recognition.exchange import export_student

    print(export_student(run, out))

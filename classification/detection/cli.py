"""vkd-detect train | sweep | compare | evaluate | predict | export"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gan_vkd.front import Baseline, Front, Out, Runs, SweepOut, commands
from gan_vkd.runtime.command_line import ConfigsAndOverrides, Jobs, Seeds, Slurm, run_app

if TYPE_CHECKING:
    from classification.detection.settings import DetectionSettings

Target = Annotated[
    float, typer.Option(min=0, max=100, help="AP50 whose first reaching is told, in percent.")
]


class Detection(Front):
    module, trained, best = "classification.detection", "a detector", "detector"
    about = "Detection with knowledge distilled from a frozen ViDT."
    sweeps = Path("runs/detection")
    measures = "e.g. data.heldout=val2017: COCO's AP, exact over ranks"
    formats = "*.safetensors, or *.pth as ViDT's authors save."

    def loader(self) -> "Callable[[Path, list[str] | None], DetectionSettings]":
        from classification.detection.settings import load_settings

        return load_settings

    def train(self, settings: Any, folder: Path, resume: bool, max_time: float | None) -> None:
        from classification.detection.training import train

        train(settings, folder, resume, max_time)

    def tables(self, runs: list[Path], out: Path, baseline: str, target: float = 50.0) -> str:
        from classification.detection.compare import compare

        return compare(runs, out, baseline, target)

    def evaluate(self, run: Path, overrides: list[str]) -> dict[str, Any]:
        settings = self.loader()(run, overrides)
        from classification.detection.evaluation import evaluate_run

        return evaluate_run(run, settings)

    def export(self, run: Path, out: Path) -> str:
        from classification.detection.run import export_detector

        return export_detector(run, out)


front = Detection()
app = commands(front, own=["sweep", "compare"])


def main() -> None:
    run_app(app)


@app.command()
def sweep(
    arguments: ConfigsAndOverrides,
    seeds: Seeds = None,
    jobs: Jobs = 1,
    out: SweepOut = front.sweeps,
    slurm: Slurm = None,
    target: Target = 50.0,
) -> None:
    """Train every arm at every seed, then compare. Call again to continue."""
    front.sweep(arguments, seeds, jobs, out, slurm, target=target)


@app.command()
def compare(
    runs: Runs, out: Out, baseline: Baseline = front.baseline, target: Target = 50.0
) -> None:
    """Put runs side by side: AP, and the updates until an AP50 was reached."""
    front.compare(runs, out, baseline, target=target)


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

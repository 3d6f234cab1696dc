"""vkd-classify train | sweep | compare | evaluate | features | export"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gan_vkd.front import Front, commands
from gan_vkd.runtime.command_line import run_app

if TYPE_CHECKING:
    from classification.recognition.settings import ClassifierSettings


class Recognition(Front):
    module, trained, best = "classification", "a student", "student"
    about = "Recognition with knowledge distilled from frozen teachers. Detection: vkd-detect."
    sweeps = Path("runs/classification")
    measures = "e.g. data.heldout=PATH: top-1 and top-5, exact over ranks"
    formats = "*.safetensors or *.pth (timm), or *.onnx."

    def loader(self) -> "Callable[[Path, list[str] | None], ClassifierSettings]":
        from classification.recognition.settings import load_settings

        return load_settings

    def train(self, settings: Any, folder: Path, resume: bool, max_time: float | None) -> None:
        from classification.recognition.training import train

        train(settings, folder, resume, max_time)

    def tables(self, runs: list[Path], out: Path, baseline: str) -> str:
        from classification.recognition.compare import compare

        return compare(runs, out, baseline)

    def evaluate(self, run: Path, overrides: list[str]) -> dict[str, Any]:
        settings = self.loader()(run, ["data.download=false", *overrides])
        from classification.recognition.evaluation import evaluate_run

        return evaluate_run(run, settings)

    def export(self, run: Path, out: Path) -> str:
        from classification.recognition.exchange import export_student

        return export_student(run, out)


app = commands(Recognition())


def main() -> None:
    run_app(app)


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

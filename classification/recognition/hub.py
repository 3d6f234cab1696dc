"""Trained students in the layout of huggingface_hub, with a model card of the run's facts."""

from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from classification.recognition.network.students import Student
from classification.recognition.run import Run, built_student, read_student
from classification.recognition.settings import StudentFacts
from gan_vkd.networks.weights import load_foreign
from gan_vkd.report.card import card, shortened
from gan_vkd.runtime.facts import Facts
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.hub import HubModel

USAGE = """from classification.recognition.hub import PretrainedStudent

student = PretrainedStudent.from_pretrained("OWNER/NAME")  # or this folder
logits = student(images)  # (B, 3, R, R), normalised by student.facts["mean"] and ["std"]"""


class PretrainedStudent(HubModel, tags=["knowledge-distillation"]):
    """A trained student. `facts` holds mean, standard deviation, resolution and class names."""

    schema: ClassVar[type[Facts]] = StudentFacts
    network: Student

    @classmethod
    def of_run(cls, source: str | Path, device: str = "cpu") -> Self:
        """The best student of a run folder, or that of a file, as `read_student` takes it."""
        student, facts = read_student(Path(source), device)
        return cls(student, facts, _card(user_path(source), facts))

    @classmethod
    def build(cls, facts: dict[str, Any], weights: Path) -> nn.Module:
        return built_student(load_foreign(weights), facts, weights)

    def weights(self) -> dict[str, Tensor]:
        return self.network.network.state_dict()  # under timm's names

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, R, R) -> logits (B, C)."""
        return self.network(images)


def export_student(run: Path, out: Path) -> str:
    """Writes a student as a folder for the Hub, and returns a line about it."""
    return PretrainedStudent.of_run(run).export(out)


def _card(source: Path, facts: dict[str, Any]) -> str:
    """The model card; of a file alone without the settings of its training."""
    settings = Run(source).settings() if source.is_dir() else None
    shown: dict[str, Any] = {
        "network": facts["name"],
        "image size": facts["resolution"],
        "classes": len(facts["classes"]),
        "epochs": facts.get("epoch", ""),
    }
    if settings is not None:
        shown |= {
            "data": shortened(settings.data.source),
            "teachers": ", ".join(x.name for x in settings.teachers.values()) or "none",
            "seed": settings.seed,
        }
    for key, name in (("top1", "top-1 on held-out images"), ("top5", "top-5 on held-out images")):
        if isinstance(facts.get(key), int | float):
            shown[name] = f"{facts[key]:.2f}%"
    return card(
        title=facts["name"] if settings is None else f"{facts['name']}, arm {settings.arm}",
        pipeline="image-classification",
        facts=shown,
        usage=USAGE,
        command="vkd-classify train settings.yaml --out RUN",
        settings={} if settings is None else settings.model_dump(mode="json"),
    )

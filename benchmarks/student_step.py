"""Times a student's update with and without distillation: python benchmarks/student_step.py

imagenet_deit_ti and imagenet_deit_ti_vkd with a batch that fits a laptop and RegNetY-160's widths
(1,000 classes, 3,024 features); the teacher's forward is left out: its outputs are precomputed. "A
distillation token" is the undistilled student with the token that all distilled arms have.
"""

from pathlib import Path

import torch
from timing import machine, side_by_side

from classification.recognition.data.feed import Batch
from classification.recognition.learner import Learner
from classification.recognition.network.students import build_student
from classification.recognition.objectives import TeacherOutputs
from classification.recognition.settings import ClassifierSettings, load_settings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BATCH, CLASSES, WIDTH, ROUNDS = 32, 1000, 3024, 15
PLAIN, VKD = "imagenet_deit_ti", "imagenet_deit_ti_vkd"
HARD = f"{PLAIN}+objectives/regnety160+objectives/hard"
TOKEN = "student.name=deit_tiny_distilled_patch16_224"
ARMS = {
    "plain": (PLAIN, []),
    "plain, a distillation token": (PLAIN, [TOKEN]),
    "hard distillation": (HARD, [TOKEN]),
    "VkD, linear": (VKD, ["objective.features.method.projection=linear"]),
    "VkD": (VKD, []),
    "VkD, static exponential": (VKD, ["objective.features.method.projection=orthogonal_static"]),
}


class KnownTeacher:
    """Stands in for RegNetY-160: only its widths."""

    widths = (CLASSES, WIDTH)


def settings_of(config: str, changes: list[str]) -> ClassifierSettings:
    common = [f"train.batch_size={BATCH}", "augment.mixup=0.8"]
    if not torch.cuda.is_available():
        common.append("train.precision=float32")
    return load_settings(CONFIGS / config, [*common, *changes])


def stepper(config: str, changes: list[str], device: str):
    torch.manual_seed(0)
    settings = settings_of(config, changes)
    student = build_student(settings.student, CLASSES, len(settings.teachers))
    teachers = [KnownTeacher() for _ in settings.teachers]
    learner = Learner(settings, student, teachers, 1000, device)
    outputs = TeacherOutputs(
        torch.randn(BATCH, CLASSES, device=device), torch.randn(BATCH, WIDTH, device=device), None
    )
    learner.teacher_outputs = lambda images: [outputs] * len(teachers)
    images = torch.randn(BATCH, 3, 224, 224, device=device)
    labels = torch.randint(CLASSES, (BATCH,), device=device)
    return lambda: learner.step(Batch(images.clone(), labels), 0)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    steps = {name: stepper(config, changes, device) for name, (config, changes) in ARMS.items()}
    found = side_by_side(steps, ROUNDS)
    print(f"An update of DeiT-Ti at 224, batch {BATCH}, 192 to {WIDTH}, median of {ROUNDS} rounds")
    print(f"{machine()}\n")
    print("| update | ms | added to plain |")
    print("|---|---|---|")
    for name, seconds in found.items():
        more = 100 * (seconds / found["plain"] - 1)
        print(f"| {name} | {1000 * seconds:.1f} | {more:+.1f}% |")


if __name__ == "__main__":
    main()

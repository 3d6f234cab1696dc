"""Export of students: plain timm checkpoints, and ONNX that is verified before it is written."""

from pathlib import Path
from typing import Any

import torch

from classification.recognition.network.published import to_vkd
from classification.recognition.network.students import Student
from classification.recognition.run import read_student
from classification.recognition.settings import StudentSettings
from gan_vkd.networks.onnx import to_onnx
from gan_vkd.networks.weights import save_pth
from gan_vkd.runtime.checkpoint import save_weights
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.files import write_atomically


def export_student(run: Path, out: Path, given: StudentSettings | None = None) -> str:
    """Exports the best student of a run, or that of a file.

    .safetensors and .pth hold the state dict under timm's names, .safetensors with the facts that
    `hubconf.py` needs; .pth.tar is in the layout of VkD's released code; .onnx maps normalised
    images (B, 3, R, R) to logits (B, C).

    Args:
        run: a run folder or a file of weights.
        out: the file to write.
        given: the student's settings, for files without facts.

    Returns:
        A line that says what was written and how to load it.

    Raises:
        SettingsError: another suffix, or a student that VkD's released code does not have.
        VkdError: no student, onnx is not installed, or the ONNX model computes other logits.
    """
    student, facts = read_student(run, given=given)
    state = student.network.state_dict()
    if out.suffix == ".safetensors":
        save_weights(out, state, facts)
    elif out.suffix == ".pth":
        save_pth(out, dict(state))
    elif out.name.endswith(".pth.tar"):
        if facts["stem"] != "conv" or facts["tokens"] != 1:
            raise SettingsError(
                f"{out}: VkD's released students have CiT's stem and one distillation token "
                "(student.stem=conv); export a .pth"
            )
        student_weights = {f"module.{k}": v for k, v in to_vkd(state).items()}
        save_pth(out, {"student": student_weights})
        return f"{out}: in the layout of VkD's released code"
    elif out.suffix == ".onnx":
        return f"{out}: logits within {export_onnx(student, facts, out):.1e} of torch's"
    else:
        raise SettingsError(
            f"{out}: expected a name that ends in .safetensors, .pth, .pth.tar or .onnx"
        )
    if facts["stem"] != "patch":
        return f"{out}: timm has no model with CiT's stem (student.stem={facts['stem']})"
    if len(student.distilled_heads) > 1:
        return f"{out}: timm has no model with several distillation tokens"
    options = "".join(f", {key}={value!r}" for key, value in facts["options"].items())
    classes = len(facts["classes"])
    return (
        f"{out}: timm.create_model({facts['name']!r}, checkpoint_path={str(out)!r}, "
        f"num_classes={classes}{options})"
    )


def export_onnx(student: Student, facts: dict[str, Any], out: Path) -> float:
    """Compares an ONNX model's logits with torch's on five images and writes the model.

    Returns:
        The largest difference of logits, divided by the largest logit.

    Raises:
        VkdError: onnx, onnxscript or onnxruntime is missing, or logits differ by more than 1e-3.
    """
    size = facts["resolution"]
    images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    batches = [{"images": images[:2]}, {"images": images}]
    model, difference = to_onnx(student, batches, "logits", {}, out)
    write_atomically(out, lambda file: file.write(model))
    return difference

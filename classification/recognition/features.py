"""Figures of students' features: similarity to the teacher, attention, equivariance to shifts.

All runs are treated alike, including those without a teacher: the projection to the teacher's
feature is not the trained one, but the orthogonal map that fits best (Procrustes).
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import classification.recognition.teacher  # noqa: F401  (registers it)
from classification.recognition.data.images import Images, load_heldout_images
from classification.recognition.data.transforms import test_transform
from classification.recognition.network.students import Student
from classification.recognition.run import Run, read_student
from classification.recognition.settings import ClassifierSettings
from classification.recognition.weights import settings_of
from gan_vkd.data.decoding import BadImage
from gan_vkd.data.image_set import draw_subset
from gan_vkd.distill import Teacher
from gan_vkd.report.figures import label, save_figure
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import user_path, write_text
from gan_vkd.teachers.frozen import load_recogniser

FITTED_ON = 1000  # images that the projection is fitted on
SHARED = {"source", "kind", "heldout", "resolution", "mean", "std"}  # equal in all runs shown


def look(
    runs: list[Path], out: Path, count: int, device: str, overrides: list[str] | None = None
) -> list[Path]:
    """Writes similarity.png, attention.png, equivariance.png and equivariance.json into `out`.

    Args:
        runs: run folders, and files of weights, with the same held-out images, shown side by side.
        count: number of images shown, spread over the classes.
        device: where the networks run.
        overrides: settings of the files: their images, and students that cannot be read off them.

    Returns:
        The files written.

    Raises:
        SettingsError: runs on other images or sizes, or no held-out images.
        VkdError: no student, or weights or images that cannot be loaded.
    """
    device = pick_device(device)
    read = [_read_run(run, device, overrides or []) for run in runs]
    settings, facts = read[0][0], read[0][2]
    names = _titles(runs, [run[0] for run in read])
    if len({run[0].data.model_dump_json(include=SHARED) for run in read}) > 1:
        raise SettingsError(
            "features: the runs differ in their data settings; show them separately"
        )
    images = load_heldout_images(settings.data, None if facts["numbered"] else facts["classes"])
    if images is None:
        raise SettingsError("data.heldout = null: no images to show")
    labels = images.labels.tolist()
    keys = [images.name(i) for i in range(len(labels))]
    shown = draw_subset(keys, labels, min(count, len(keys)), seed=0)
    fitted = draw_subset(keys, labels, min(FITTED_ON, len(keys)), seed=1)
    pixels = _read(images, shown, settings).to(device)
    students = {name: run[1] for name, run in zip(names, read, strict=True)}
    files = []

    teacher_settings = next((s for s, _, _ in read if s.teachers), None)
    if teacher_settings is not None:
        network = next(iter(teacher_settings.teachers.values()))
        teacher = load_recogniser(network, settings.data.resolution, device)
        many = _read(images, fitted, settings).to(device)
        maps = {
            name: similarity_maps(student, teacher, pixels, many, settings)
            for name, student in students.items()
        }
        title = f"cosine of each patch to {network.name}'s feature"
        files.append(_picture(pixels, maps, settings, out / "similarity.png", title))

    attended = {name: attention_maps(s, pixels) for name, s in students.items()}
    with_attention = {name: a for name, a in attended.items() if a is not None}
    if with_attention:
        title = "attention of the class token, last block, mean of the heads"
        files.append(_picture(pixels, with_attention, settings, out / "attention.png", title))

    curves = {name: equivariance(student, pixels) for name, student in students.items()}
    write_text(out / "equivariance.json", json.dumps(curves, indent=1) + "\n")
    return [*files, _plot(curves, out / "equivariance.png"), out / "equivariance.json"]


def _read_run(
    run: Path, device: str, overrides: list[str]
) -> tuple[ClassifierSettings, Student, dict[str, Any]]:
    if user_path(run).is_dir():
        return Run(run).settings(), *read_student(run, device)
    settings = settings_of(run, overrides)
    return settings, *read_student(run, device, settings.student)


def _titles(runs: list[Path], settings: list[ClassifierSettings]) -> list[str]:
    names = [
        f"{s.arm}, seed {s.seed}" if user_path(run).is_dir() else run.name
        for run, s in zip(runs, settings, strict=True)
    ]
    if len(set(names)) < len(names):
        raise VkdError("features: two runs of one arm and seed: set another arm")
    return names


def _read(images: Images, indices: list[int], settings: ClassifierSettings) -> Tensor:
    """Reads and transforms images; with data.damaged=skip leaves out those that cannot be used."""
    transform, found = test_transform(settings.data, settings.evaluate.crop), []
    for i in indices:
        try:
            found.append(transform(images.image(i)))
        except BadImage as error:
            if settings.data.damaged == "refuse":
                raise VkdError(f"{images.name(i)}: cannot be used ({error})") from None
    if not found:
        raise VkdError(f"{settings.data.heldout}: none of the images to show can be used")
    return torch.stack(found)


def patches(student: Student, images: Tensor) -> Tensor:
    """Normalised images (B, 3, R, R) -> features (B, h, w, d) of patches, or of a CNN's map."""
    x = student.channels_first(student.network.forward_features(images))
    if x.ndim == 4:
        return x.permute(0, 2, 3, 1)
    x = x[:, student.prefix :]
    side = round(x.shape[1] ** 0.5)
    return x.unflatten(1, (side, side))


def procrustes(student: Tensor, teacher: Tensor) -> Tensor:
    """P (dt, ds) with orthonormal columns, or rows where ds > dt, that maximises <Zs P^T, Zt>.

    The solution of the orthogonal Procrustes problem (Schoenemann 1966), in float64.

    Args:
        student, teacher: features (N, ds) and (N, dt) of the same images.
    """
    u, _, v = torch.linalg.svd(teacher.double().T @ student.double(), full_matrices=False)
    return u @ v


@torch.no_grad()
def similarity_maps(
    student: Student,
    teacher: Teacher,
    shown: Tensor,
    fitted: Tensor,
    settings: ClassifierSettings,
) -> Tensor:
    """Cosine of each projected patch to the image's layer-normed teacher feature, (B, h, w).

    Args:
        shown, fitted: normalised images (B, 3, R, R); the projection is fitted on `fitted`.
    """
    mean, std = (
        torch.tensor(x, device=shown.device).view(1, 3, 1, 1)
        for x in (settings.data.mean, settings.data.std)
    )

    def target(images: Tensor) -> Tensor:
        features = teacher.read((images * std + mean) * 2 - 1)[1]
        return F.layer_norm(features, features.shape[1:])

    parts = [(student.read(part).features, target(part)) for part in fitted.split(100)]
    ours, theirs = (torch.cat(side) for side in zip(*parts, strict=True))
    projection = procrustes(ours, theirs).float()
    projected = patches(student, shown) @ projection.T
    return F.cosine_similarity(projected, target(shown)[:, None, None], dim=3)


@torch.no_grad()
def attention_maps(student: Student, images: Tensor) -> Tensor | None:
    """Attention of the last block's class token to the patches, (B, h, w), the mean over the heads.
    None for networks without such blocks."""
    network = student.network
    if not hasattr(network, "blocks") or not hasattr(network.blocks[-1], "attn"):
        return None
    attention = network.blocks[-1].attn
    inputs: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    try:
        student(images)
    finally:
        hook.remove()
    x = inputs[0]
    b, n = x.shape[:2]
    qkv = attention.qkv(x).view(b, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(qkv[0]), attention.k_norm(qkv[1])
    weights = (q * attention.scale @ k.mT).softmax(-1)[:, :, 0, student.prefix :].mean(1)
    side = round(weights.shape[1] ** 0.5)
    return weights.unflatten(1, (side, side))


@torch.no_grad()
def equivariance(student: Student, images: Tensor) -> dict[str, dict[str, float]]:
    """How features change when images are shifted cyclically to the right.

    patches: the mean cosine of F(shift(x)) to shift(F(x)), for shifts of whole patches in pixels; 1
    is equivariance. pooled: the mean cosine of the pooled features of shift(x) and of x; 1 is
    invariance.

    Args:
        images: normalised (B, 3, R, R).
    """
    before, pooled = patches(student, images), student.read(images).features
    stride = images.shape[3] // before.shape[2]
    result: dict[str, dict[str, float]] = {"patches": {}, "pooled": {}}
    for shift in range(1, images.shape[3] // 2 + 1):
        shifted = images.roll(shift, 3)
        features = student.read(shifted).features
        result["pooled"][str(shift)] = float(F.cosine_similarity(features, pooled).mean())
        if shift % stride == 0:
            expected = before.roll(shift // stride, 2)
            cosine = F.cosine_similarity(patches(student, shifted), expected, dim=3)
            result["patches"][str(shift)] = float(cosine.mean())
    return result


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _picture(
    images: Tensor,
    maps: dict[str, Tensor],
    settings: ClassifierSettings,
    path: Path,
    title: str,
) -> Path:
    """Draws the images in the first row and the maps of each run in a row below, on one scale."""
    plt = _pyplot()
    count = len(images)
    figure, axes = plt.subplots(
        1 + len(maps), count, figsize=(1.6 * count + 1, 1.75 * (1 + len(maps))), squeeze=False
    )
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (settings.data.mean, settings.data.std))
    for axis, image in zip(axes[0], images.cpu(), strict=True):
        axis.imshow((image * std + mean).clamp(0, 1).permute(1, 2, 0).numpy())
    low = min(float(m.min()) for m in maps.values())
    high = max(float(m.max()) for m in maps.values())
    for row, (name, values) in zip(axes[1:], maps.items(), strict=True):
        for axis, value in zip(row, values.cpu(), strict=True):
            drawn = axis.imshow(value.numpy(), vmin=low, vmax=high, cmap="viridis")
        row[0].set_ylabel(label(name, 30), fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(label(title, 120), fontsize=9)
    figure.colorbar(drawn, ax=axes, fraction=0.03)
    save_figure(figure, path, dpi=120)
    plt.close(figure)
    return path


def _plot(results: dict[str, dict[str, dict[str, float]]], path: Path) -> Path:
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    titles = {"patches": "patches: cosine to the shifted map", "pooled": "pooled: cosine to before"}
    for axis, (kind, title) in zip(axes, titles.items(), strict=True):
        for name, curves in results.items():
            shifts = [int(shift) for shift in curves[kind]]
            axis.plot(shifts, list(curves[kind].values()), marker=".", label=label(name))
        axis.set(title=title, xlabel="cyclic shift in pixels")
        axis.legend(fontsize=7)
    save_figure(figure, path, dpi=120)
    plt.close(figure)
    return path

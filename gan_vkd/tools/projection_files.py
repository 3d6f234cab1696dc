"""The files of a projection: its target, and what was found."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_vkd.data.decoding import BadImage, decode
from gan_vkd.data.image_set import to_network, to_uint8
from gan_vkd.data.images import MAX_FILE_BYTES
from gan_vkd.data.settings import DataSettings
from gan_vkd.networks.interface import Generator
from gan_vkd.report.figures import save_figure
from gan_vkd.report.pictures import save_png
from gan_vkd.runtime.checkpoint import save_weights
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import read_bytes, require_writable, user_path
from gan_vkd.tools.captions import captioned
from gan_vkd.tools.projection import Projected
from gan_vkd.tools.video import require_video, write_video

NAMES = ("projected.safetensors", "projected.png", "projection.png", "curve.png")
FPS = 20  # of the video


def read_target(picture: Path, data: DataSettings, generator: Generator) -> Tensor:
    """Reads an image file as training images are: (1, C, H, W) in [-1, 1], on the same device.

    Raises:
        VkdError: it cannot be read, or is not an image.
    """
    form = data.of_channels(generator.shape.channels).form
    try:
        pixels = decode(read_bytes(user_path(picture), MAX_FILE_BYTES), form, data.max_megapixels)
    except BadImage as error:
        raise VkdError(f"{picture}: {error}") from None
    image = torch.tensor(pixels).permute(2, 0, 1)[None]
    return to_network(image).to(next(generator.parameters()).device)


def require_files(folder: Path, video: Path | None) -> None:
    """Tries whether `save_projection` could write its files, before anything is searched.

    Raises:
        SettingsError, VkdError: it could not.
    """
    for name in NAMES:
        require_writable(folder / name)
    if video is not None:
        require_video(video)


def save_projection(
    found: Projected, target: Tensor, facts: dict[str, Any], folder: Path, video: Path | None
) -> str:
    """Writes NAMES into a folder, and the video.

    Args:
        found: the result.
        target: (1, C, H, W) in [-1, 1].
        facts: stored beside the latent, with the distances.
        folder: for the files.
        video: file for the course beside the target; None: no video.

    Returns:
        A line with the distances.
    """
    wanted = to_uint8(target[0])
    (start, start_pixels), (end, end_pixels) = found.before.tolist(), found.after.tolist()
    facts = facts | {
        "perceptual": {"start": start, "end": end},
        "pixels": {"start": start_pixels, "end": end_pixels},
    }
    weights, picture, beside, curve = (folder / name for name in NAMES)
    save_weights(weights, found.state, facts)
    save_png(found.image, picture)
    pair = torch.stack([wanted, found.image])
    save_png(captioned(pair, ["target", "projection"]), beside)
    _save_curve(found.course, curve)
    if video is not None:
        pairs = (torch.stack([wanted, image]) for image in found.snapshots)
        write_video((captioned(two, ["target", "projection"]) for two in pairs), video, FPS)
    noise_ratio = 10 * math.log10(4 / max(end_pixels, 1e-12))
    return (
        f"{folder}: perceptual distance {start:.4g} -> {end:.4g}, mean square of pixels "
        f"{start_pixels:.4g} -> {end_pixels:.4g} (PSNR {noise_ratio:.1f} dB)"
    )


def _save_curve(course: Tensor, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axis = figure.subplots()
    for values, name in zip(course.T.cpu(), ("perceptual distance", "pixels"), strict=True):
        axis.plot(values.numpy(), label=name)
    axis.set_yscale("log")
    axis.set_xlabel("step (with noise on the latent)")
    axis.legend()
    save_figure(figure, path)

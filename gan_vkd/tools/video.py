"""Videos: GIF by Pillow, MP4 (H.264) by imageio, which is an optional dependency."""

from collections.abc import Iterable, Iterator
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from torch import Tensor

from gan_vkd.report.pictures import on_white
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import require_writable, write_atomically


def require_video(path: Path) -> None:
    """Raises an error if a video of this name cannot be written here, before its frames are made.

    Raises:
        SettingsError: the name ends in neither .gif nor .mp4.
        VkdError: it cannot be written; or .mp4, and imageio or imageio-ffmpeg is not installed.
    """
    if path.suffix not in (".gif", ".mp4"):
        raise SettingsError(f"{path}: expected a name that ends in .gif or .mp4")
    if path.suffix == ".mp4":
        try:
            for module in ("imageio.v2", "imageio_ffmpeg"):
                import_module(module)
        except ImportError as error:
            raise VkdError(
                f"{path}: {error}; pip install imageio imageio-ffmpeg, or write a .gif"
            ) from None
    require_writable(path)


def write_video(frames: Iterable[Tensor], path: Path, fps: int) -> None:
    """Writes frames, uint8 (C, H, W) of one size, as they come; a GIF repeats forever.

    Grey pictures are written as RGB, transparent ones on white. MP4 needs even sides: the last
    column or row is repeated where they are odd. GIF has 256 colours and times in 1/100 s.

    Raises:
        SettingsError, VkdError: as in `require_video`.
    """
    require_video(path)
    write = _write_gif if path.suffix == ".gif" else _write_mp4
    write_atomically(path, partial(write, map(_rgb, frames), fps))


def _rgb(frame: Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, 3)."""
    return on_white(frame).permute(1, 2, 0).cpu().numpy()


def _write_gif(frames: Iterator[np.ndarray], fps: int, file: IO[bytes]) -> None:
    first, *rest = (Image.fromarray(frame).quantize(256) for frame in frames)
    ends = [10 * round(100 * count / fps) for count in range(len(rest) + 2)]  # in milliseconds
    times = [end - start for start, end in pairwise(ends)]
    first.save(file, "GIF", save_all=True, append_images=rest, duration=times, loop=0)


def _write_mp4(frames: Iterator[np.ndarray], fps: int, file: IO[bytes]) -> None:
    import imageio.v2

    options = {"codec": "libx264", "quality": 9, "macro_block_size": 2, "ffmpeg_log_level": "error"}
    open_writer: Any = imageio.v2.get_writer
    with open_writer(file, format="mp4", mode="I", fps=fps, **options) as writer:
        for frame in frames:
            odd = [(0, side % 2) for side in frame.shape[:2]]
            writer.append_data(np.pad(frame, [*odd, (0, 0)], mode="edge"))

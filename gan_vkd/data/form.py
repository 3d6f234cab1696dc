"""The form of a set's pixels: channels and size, and how an image of any kind is brought into it.

Images are Pillow's. Greys of more than 8 bits are kept as floating-point images in [0, 255] until
they have their size, and rounded then.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

WHITE_16 = 65_535  # default of data.white
SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L")  # Pillow's modes of greys of more than 8 bits
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by number of channels


@dataclass(frozen=True)
class Form:
    """The form of a set's pixels.

    height, width: in pixels. channels: 1 (grey), 3 (RGB), 4 (RGBA), or None for what the images
    need (gan_vkd/data/survey.py). fit: whether an image of another aspect is cropped to the central
    largest rectangle or padded. background: colour that transparency is put on, and padding has, if
    there are fewer than 4 channels; None: white. With 4, padding is transparent. white: value of a
    16-bit grey that becomes white.
    """

    height: int
    width: int
    channels: int | None = 3
    fit: Literal["crop", "letterbox"] = "crop"
    background: str | None = None
    white: int = WHITE_16

    @property
    def colour(self) -> str:
        """The background's."""
        return self.background or "white"

    @staticmethod
    def of(form: "Form | int") -> "Form":
        """The form, or that of RGB squares of a side."""
        return Form(form, form) if isinstance(form, int) else form


def formed(image: Image.Image, form: Form) -> np.ndarray:
    """Brings an image into the form, which has a number of channels: (H, W, C) uint8.

    Resizing is Lanczos's, of premultiplied colours where there is transparency: a transparent pixel
    has no part in the colours around it. Pixels that are fully transparent become white.
    """
    image = _converted(eight_bits(image, form.white, rounded=False), form)
    image = _padded(image, form) if form.fit == "letterbox" else _cropped(image, form)
    if image.size != (form.width, form.height):
        image = image.resize((form.width, form.height), Image.Resampling.LANCZOS)
    pixels = np.asarray(_rounded(image))
    if image.mode == "RGBA":
        return np.where(pixels[..., 3:] == 0, np.array([255, 255, 255, 0], np.uint8), pixels)
    return pixels.reshape(form.height, form.width, -1)


def eight_bits(image: Image.Image, white: int = WHITE_16, *, rounded: bool = True) -> Image.Image:
    """Scales a grey image of 16 bits from [0, white] to [0, 255]; returns any other as it is.

    Values above white become white. Not rounded, it is a floating-point image (mode F).
    """
    if image.mode not in SIXTEEN_BITS:
        return image
    values = np.asarray(image).clip(0, white).astype(np.float32) * (255 / white)
    scaled = Image.fromarray(values.astype(np.float32))
    return _rounded(scaled) if rounded else scaled


def flat(image: Image.Image, background: str = "white") -> Image.Image:
    """Puts transparency on a background, and converts to RGB."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _rounded(image: Image.Image) -> Image.Image:
    if image.mode != "F":
        return image
    return Image.fromarray(np.asarray(image).round().clip(0, 255).astype(np.uint8))


def _converted(image: Image.Image, form: Form) -> Image.Image:
    """Converts to the form's channels; greys that are not rounded yet stay so for one channel."""
    assert form.channels is not None
    mode = MODES[form.channels]
    if mode == "L" and image.mode in ("L", "F") and not image.has_transparency_data:
        return image
    if mode == "RGBA":
        return _rounded(image).convert(mode)
    image = flat(_rounded(image), form.colour)
    return image if image.mode == mode else image.convert(mode)


def _cropped(image: Image.Image, form: Form) -> Image.Image:
    """The central largest rectangle of the form's aspect."""
    # cropped first, since Pillow's resize with a box also reads pixels outside of it
    width = min(image.width, max(1, round(image.height * form.width / form.height)))
    height = min(image.height, max(1, round(image.width * form.height / form.width)))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if (width, height) == image.size:
        return image
    return image.crop((left, top, left + width, top + height))


def _padded(image: Image.Image, form: Form) -> Image.Image:
    """The whole image, as large as fits, in the middle of the background."""
    scale = min(form.width / image.width, form.height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    whole = form.width, form.height
    if image.mode == "RGBA":
        canvas = Image.new("RGBA", whole, (255, 255, 255, 0))
    else:
        canvas = Image.new("RGB", whole, form.colour)
    if image.mode in ("L", "F"):
        canvas = canvas.convert("L").convert(image.mode)
    canvas.paste(image, ((form.width - size[0]) // 2, (form.height - size[1]) // 2))
    return canvas

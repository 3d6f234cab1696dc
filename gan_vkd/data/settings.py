"""The settings of a set of images."""

from typing import Annotated, Any, Literal

from PIL import ImageColor
from pydantic import BeforeValidator, Field, model_validator

from gan_vkd.data.decoding import MAX_MEGAPIXELS
from gan_vkd.data.form import WHITE_16, Form
from gan_vkd.data.image_set import SOURCES
from gan_vkd.data.shape import Shape
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import Positive, Seed

Megapixels = Annotated[int, Field(ge=1, le=4096)]

# Keys of every stored section; one written by hand does not have all of them
STORED = {"source", "root", "download", "heldout", "resolution", "fraction", "num_images", "seed"}
MOST = 2048  # pixels of a side


def _sides(value: Any) -> Any:
    """Accepts sides that networks can halve until the shorter one is 4 to 7 pixels."""
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value, value]
    whole = all(type(side) is int and 4 <= side <= MOST for side in sides)
    if whole and Shape(3, *sides).halvings is not None:
        return value
    raise ValueError(
        f"expected R or [height, width], at most {MOST}: 4, 5, 6 or 7 times a power of two, and a "
        "longer side that is a multiple of that power; such as 32, 96 or [48, 64]"
    )


Resolution = Annotated[int | tuple[int, int], BeforeValidator(_sides)]
Colour = Annotated[str, Field(pattern=r"^(white|#[0-9a-fA-F]{6})$")]


class DataSettings(Section):
    """Training images."""

    source: str
    """A set by its name (`cifar10`, `cifar100`, `digits`), or the path of a folder or zip of
    images."""
    root: str = "data"
    """Folder of torchvision's CIFAR, also for its download."""
    download: bool = True
    """Whether CIFAR is downloaded where it is missing."""
    heldout: str | None = "test"
    """Images that are not trained on: `test` (those of the source itself), a folder or zip, or
    null."""
    resolution: Resolution = 32
    """Of images: R for squares, or [height, width]."""
    fit: Literal["crop", "letterbox"] = "crop"
    """What is done to images of another aspect: the middle is cut out, or the whole is put on the
    background."""
    channels: Literal["auto", 1, 3, 4] = "auto"
    """`auto`: of files 1 if all are grey, 4 if any is transparent, else 3; of a named set its
    own."""
    background: Colour | None = None
    """`white` or "#rrggbb", which transparency is put on: if set, `auto` keeps none. With 4
    channels it is so for judges and teachers only. null: white where there is transparency to be
    put on it."""
    white: Annotated[int, Field(ge=1, le=WHITE_16)] = WHITE_16
    """Value of 16-bit greys that is white."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the training images that is used, drawn by `seed`."""
    num_images: Positive | None = None
    """Number of the training images that are used, drawn by `seed`."""
    seed: Seed = 0
    """Of the subset."""
    conditional: bool | None = None
    """Whether classes are given to the networks; null: if the data has classes."""
    flip: bool = True
    """Whether images are mirrored at random."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """Whether a file that cannot be read is an error or left out."""
    max_megapixels: Megapixels = MAX_MEGAPIXELS
    """Larger images of folders and zips are not read."""

    @model_validator(mode="after")
    def _one_size(self) -> "DataSettings":
        if self.fraction is not None and self.num_images is not None:
            raise ValueError("give fraction or num_images, not both")
        return self

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, tree: Any) -> Any:
        """Stored sections of versions without channels are of RGB, with transparency on white."""
        stored = isinstance(tree, dict) and tree.keys() >= STORED and "channels" not in tree
        return {"channels": 3} | tree if stored and tree["source"] not in SOURCES else tree

    @property
    def form(self) -> Form:
        """The form of the pixels of image files."""
        shape, channels = self.shape, None if self.channels == "auto" else self.channels
        height, width = shape.height, shape.width
        return Form(height, width, channels, self.fit, self.background, self.white)

    @property
    def shape(self) -> Shape:
        """With three channels for auto, until the images are read (`of_channels`)."""
        sides = self.resolution if isinstance(self.resolution, tuple) else (self.resolution,) * 2
        return Shape(3 if self.channels == "auto" else self.channels, *sides)

    @property
    def backdrop(self) -> tuple[float, ...]:
        """Colour in [0, 1] that transparent images are put on for networks that take RGB."""
        return tuple(level / 255 for level in ImageColor.getrgb(self.form.colour))

    def of_channels(self, channels: int) -> "DataSettings":
        """The same with this number of channels: that of a training set which has been read."""
        return self.model_copy(update={"channels": channels})

"""The settings of a set of images."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gan_vkd.data.decoding import MAX_MEGAPIXELS
from gan_vkd.data.shape import Shape
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import Positive, Seed

Megapixels = Annotated[int, Field(ge=1, le=4096)]


class DataSettings(Section):
    """Training images. `source`: cifar10, cifar100, digits, or the path of a folder or zip."""

    source: str
    root: str = "data"  # folder of torchvision's CIFAR, also for its download
    download: bool = True
    heldout: str | None = "test"  # "test" (the source's own), a folder or zip, or null
    resolution: Literal[32, 64, 128, 256, 512] = 32
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    num_images: Positive | None = None
    seed: Seed = 0  # of the subset
    conditional: bool | None = None  # null: if the data has classes
    flip: bool = True
    damaged: Literal["refuse", "skip"] = "refuse"
    max_megapixels: Megapixels = MAX_MEGAPIXELS  # larger images of folders and zips are not read

    @model_validator(mode="after")
    def _one_size(self) -> "DataSettings":
        if self.fraction is not None and self.num_images is not None:
            raise ValueError("give fraction or num_images, not both")
        return self

    @property
    def shape(self) -> Shape:
        return Shape(3, self.resolution, self.resolution)

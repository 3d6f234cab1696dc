"""The settings of a frozen network, of its layer, and of a text tower."""

from typing import Annotated, Literal

from pydantic import Field

from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import Count, Positive

Prompt = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]  # with {} for the name


class LayerSettings(Section):
    """The layer that a network is read at, and how its output is pooled to a vector per sample."""

    layer: str | None = None  # a module's name; null: the network's default features
    pool: Literal["mean", "sum", "first"] = "mean"
    prefix_tokens: Count = 0  # left out of a mean or sum over tokens
    channels_last: bool = False  # maps are (B, H, W, d), as in Swin


class NetworkSettings(LayerSettings):
    """A frozen network by name: cifar_resnet20 (32, 44, 56, 110), rednet101 (26, 38, 50, 152),
    timm/NAME, discriminator, classifier (a checkpoint of `vkd teach`) or, for evaluation, one of
    INCEPTION."""

    name: str
    weights: str | None = None  # a local copy; null: the published download
    size: Positive | None = None  # input size; null: the network's own
    enlarge: Literal["bicubic", "nearest"] = "bicubic"  # how images are resized to it
    normalize: bool = True  # false: it is given images in [-1, 1] unchanged


class TextSettings(Section):
    """A text tower of open_clip whose class embeddings are in the teacher's feature space."""

    model: str = "ViT-B-32-quickgelu"
    weights: str = "openai"  # a published tag, or a local copy
    names: list[str] | None = None  # class names; null: those of the data
    prompts: Annotated[list[Prompt], Field(min_length=1)] = ["a {}"]  # KD-DLGAN's; averaged
    normalize: bool = True  # to unit length; false as in KD-DLGAN's code

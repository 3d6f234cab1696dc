"""The settings of a frozen network, of its layer, and of a text tower."""

from typing import Annotated, Literal

from pydantic import Field

from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import Count, Positive

Prompt = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]  # with {} for the name


class LayerSettings(Section):
    """The layer that a network is read at, and how its output is pooled to a vector per sample."""

    layer: str | None = None
    """Name of a module of the network; null: the network's default features."""
    pool: Literal["mean", "sum", "first"] = "mean"
    """How tokens or positions become one vector: their mean, their sum, or the first token."""
    prefix_tokens: Count = 0
    """Number of first tokens that a mean or sum leaves out."""
    channels_last: bool = False
    """Whether maps are (B, H, W, d), as in Swin."""


class NetworkSettings(LayerSettings):
    """A frozen network by name: cifar_resnet20 (32, 44, 56, 110), rednet101 (26, 38, 50, 152),
    timm/NAME, discriminator, classifier (a checkpoint of `vkd teach`) or, for evaluation, one of
    INCEPTION."""

    name: str
    """The network."""
    weights: str | None = None
    """A local copy of its weights; null: the published download."""
    size: Positive | None = None
    """Input size in pixels; null: the network's own."""
    enlarge: Literal["bicubic", "nearest"] = "bicubic"
    """How images are resized to it."""
    normalize: bool = True
    """Whether images have the mean and deviation of the network's training; false: it is given
    images in [-1, 1]."""


class TextSettings(Section):
    """A text tower of open_clip whose class embeddings are in the teacher's feature space."""

    model: str = "ViT-B-32-quickgelu"
    """Name of the text tower in open_clip."""
    weights: str = "openai"
    """A published tag, or a local copy."""
    names: list[str] | None = None
    """Class names; null: those of the data."""
    prompts: Annotated[list[Prompt], Field(min_length=1)] = ["a {}"]
    """Sentences with {} for the name, whose embeddings are averaged; KD-DLGAN's."""
    normalize: bool = True
    """Whether embeddings are scaled to unit length; false as in KD-DLGAN's code."""

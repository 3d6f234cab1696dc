"""The settings of a recognition run."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from classification.epochs.settings import EpochRunSettings, EpochSettings, Triple
from gan_vkd.data.decoding import MAX_MEGAPIXELS
from gan_vkd.data.image_set import SOURCES
from gan_vkd.data.settings import DataSettings, Megapixels
from gan_vkd.distill import METHODS
from gan_vkd.runtime.components import Choice, OneOf, choice
from gan_vkd.runtime.facts import Facts
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import (
    Above0,
    BatchSize,
    Count,
    Fraction,
    Positive,
    Seed,
    Weight,
    Workers,
)
from gan_vkd.runtime.settings_file import load_as
from gan_vkd.teachers.earlier import with_method
from gan_vkd.teachers.settings import LayerSettings, NetworkSettings


class InputSettings(Section):
    """The training and held-out images, and how they are loaded.

    source depends on `kind`. memory: cifar10, cifar100, digits, a folder or a zip, held as uint8.
    files: a folder with one folder for each class, decoded on demand. shards: tar files of
    webdataset, "train-{000000..000146}.tar".
    """

    source: str
    """Training images; depends on `kind`."""
    kind: Literal["memory", "files", "shards"] = "memory"
    """`memory`: cifar10, cifar100, digits, a folder or a zip, held as 8-bit pixels. `files`: a
    folder with one folder for each class, decoded on demand. `shards`: tar files of webdataset,
    "train-{000000..000146}.tar"."""
    heldout: float | str | None = "test"
    """`test`: the source's own (memory); a path; a share of `source` (files), drawn by `seed`; or
    null."""
    root: str = "data"
    """Folder of torchvision's CIFAR, also for its download."""
    download: bool = True
    """Whether CIFAR is downloaded where it is missing."""
    resolution: Positive = 224
    """Of the square images that the student sees."""
    num_images: Positive | None = None
    """memory: of a stratified subset; shards: of all of them."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the training images that is used, drawn by `seed`."""
    seed: Seed = 0
    """Of the subset."""
    classes: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    """shards: number of classes."""
    mean: Triple = (0.485, 0.456, 0.406)
    """Of the channels, subtracted from images in [0, 1]."""
    std: tuple[Above0, Above0, Above0] = (0.229, 0.224, 0.225)
    """Of the channels, that the difference is divided by."""
    workers: Workers = 8
    """Decoding processes of each rank."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """Whether a file that cannot be read is an error or left out."""
    max_megapixels: Megapixels = MAX_MEGAPIXELS
    """Larger images are not read."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "InputSettings":
        if self.kind == "memory" and self.resolution not in (32, 64):
            raise ValueError(
                f"kind = memory holds images of 32 or 64 pixels, not {self.resolution}: set "
                "resolution, or kind = files"
            )
        if self.fraction is not None and self.num_images is not None:
            raise ValueError("give fraction or num_images, not both")
        if self.kind == "shards" and (self.num_images is None or self.classes is None):
            raise ValueError("kind = shards records no counts: set num_images and classes")
        split = self.kind == "memory" and self.source in SOURCES
        if self.heldout == "test" and not split:
            raise ValueError(
                f"heldout = test belongs to source = {', '.join(SOURCES)} in memory: set it "
                "to a path, or null"
            )
        if isinstance(self.heldout, float) and (self.kind != "files" or not 0 < self.heldout < 1):
            raise ValueError(
                f"heldout = {self.heldout}: a share lies between 0 and 1 and needs kind = files"
            )
        if self.kind == "files" and (self.num_images is not None or self.fraction is not None):
            raise ValueError("num_images and fraction belong to kind = memory")
        return self

    @property
    def idle(self) -> dict[str, str]:
        return self._unless("kind", "shards", "classes")

    @property
    def limits(self) -> tuple[int, int]:
        """max_megapixels of `open_rgb`, and `needed`: the smallest of the usual crops has 8% of the
        area, which is more than a quarter of the side."""
        return self.max_megapixels, 4 * self.resolution

    @property
    def in_memory(self) -> DataSettings:
        names = DataSettings.model_fields.keys() & type(self).model_fields.keys()
        return DataSettings(channels=3, **{name: getattr(self, name) for name in names})


# Options of timm.create_model that reach no file, network or code (checkpoint_path unpickles).
StudentOption = Literal[
    "img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias",
    "qk_norm", "init_values", "global_pool", "class_token", "reg_tokens", "no_embed_class",
    "dynamic_img_size", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate",
    "attn_drop_rate", "drop_path_rate", "window_size", "base_width", "cardinality", "stem_width",
    "zero_init_last",
]  # fmt: skip


class StudentSettings(Section):
    """A timm model; one with a distillation token gets one token for each teacher.

    stem: patch, timm's own; for ViTs also conv, the convolutional stem of CiT, which VkD's released
    code has; cit, that and its involution stem, for two teachers.
    """

    name: str = "deit_tiny_distilled_patch16_224"
    """A timm model; one with a distillation token gets one token for each teacher."""
    stem: Literal["patch", "conv", "cit"] = "patch"
    """`patch`: timm's own; for ViTs also `conv`, the convolutional stem of CiT, which VkD's
    released code has; `cit`, that and its involution stem, for two teachers."""
    options: dict[StudentOption, int | float | bool | str] = Field(default={})
    """Options of timm.create_model."""
    drop_path: Fraction = 0.1
    """Largest probability of leaving out a block (stochastic depth)."""
    weights: str | None = None
    """Initial weights: a file, or "published" for timm's own."""


class AugmentSettings(Section):
    """DeiT's augmentation, composed of timm's transforms.

    views: each image has this many augmented views, the same at every seed; epoch e shows view e
    modulo their number, so that a teacher sees each of them only once. null: a new view every time.
    """

    crop: Literal["resized", "padded"] = "resized"
    """A crop of random size and aspect; `padded`: by 4 pixels, for small images."""
    scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Of a resized crop's area."""
    flip: Fraction = 0.5
    """Probability of mirroring an image."""
    color_jitter: Weight = 0.3
    """Strength; timm ignores it with RandAugment or AutoAugment."""
    policy: str | None = "rand-m9-mstd0.5-inc1"
    """Of timm's auto_augment."""
    erasing: Fraction = 0.25
    """Probability of erasing a rectangle."""
    mixup: Weight = 0.8
    """Parameter of Mixup's beta distribution; 0: off."""
    cutmix: Weight = 1.0
    """Parameter of CutMix's beta distribution; 0: off."""
    mix_probability: Fraction = 1.0
    """Of mixing a batch."""
    switch_probability: Fraction = 0.5
    """Of CutMix instead of Mixup where both are on."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of labels."""
    repeats: Positive = 3
    """Copies of an image in a batch, each augmented anew (repeated augmentation)."""
    views: Positive | None = None
    """Number of augmented views of each image, the same at every seed, whose teachers' outputs are
    computed once; null: new ones in every epoch."""

    @property
    def idle(self) -> dict[str, str]:
        return self._unless("crop", "resized", "scale")

    @model_validator(mode="after")
    def _views_are_whole_images(self) -> "AugmentSettings":
        if self.views and (self.mixup or self.cutmix or self.repeats > 1):
            raise ValueError(
                "views: images that are mixed or repeated have none that are fixed: "
                "set mixup, cutmix = 0 and repeats = 1"
            )
        return self


class TokenSettings(Section):
    """Loss between a teacher's prediction and the student's distillation token (or only output)."""

    kind: Literal["hard", "soft"] = "hard"
    """The teacher's first class, or its probabilities."""
    weight: Above0 = 0.5
    """Of the loss."""
    temperature: Above0 = 1.0
    """That logits are divided by."""

    @property
    def idle(self) -> dict[str, str]:
        return self._unless("kind", "soft", "temperature")


class FeatureSettings(Section):
    """Loss between the teacher's pooled features and the mean of the student's tokens.

    tokens: the tokens that are averaged: all as in the paper, or patches as in its released code.
    """

    tokens: Literal["all", "patches"] = "all"
    """The tokens that are averaged: all as in the paper, or patches as in its released code."""
    method: Annotated[Choice, OneOf(METHODS, "vkd")] = choice(
        {"name": "vkd", "normalization": "layer_norm", "distance": "smooth_l1"}
    )
    """The loss between student and teacher features."""
    weight: Above0 = 1.0
    """Of the loss."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, tree: Any) -> Any:
        return with_method(tree)

    @model_validator(mode="after")
    def _fits_recognition(self) -> "FeatureSettings":
        if getattr(METHODS[self.method.name], "takes_text", False):
            raise ValueError(f"method = {self.method.name} is for GANs only")
        normalization = self.method.chosen.get("normalization", {})
        if normalization.get("statistics") == "training_set":
            raise ValueError("statistics = training_set is for GANs only: set running or batch")
        if normalization.get("directions") == "agreement":
            raise ValueError("directions = agreement is for GANs only")
        return self


class EarlySettings(Section):
    """Loss between a teacher's early map and a block of the student."""

    student: str = "blocks.2"
    """Name of the student's block."""
    teacher: LayerSettings
    """The teacher's layer."""
    weight: Above0 = 1.0
    """Of the loss."""

    @model_validator(mode="after")
    def _whole_maps(self) -> "EarlySettings":
        if self.teacher.pool != "mean" or self.teacher.prefix_tokens:
            raise ValueError("teacher: a map is matched unpooled: leave out pool and prefix_tokens")
        return self


class ObjectiveSettings(Section):
    """The student's loss: a weighted sum of terms, each summed over the teachers."""

    label: Above0 = 1.0
    """Weight of the class token's cross-entropy."""
    token: TokenSettings | None = None
    """Loss on predictions; null: none."""
    features: FeatureSettings | None = None
    """Loss on features; null: none."""
    early: EarlySettings | None = None
    """Loss on early maps, as in DearKD; null: none."""
    stage_one: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training that uses teachers."""

    @property
    def needs_teachers(self) -> bool:
        return any(part is not None for part in (self.token, self.features, self.early))


class ClassifierTrainSettings(EpochSettings):
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from each of timm's layers to the one below it; the head has the
    whole rate."""
    freeze: Count | Literal["all"] = 0
    """How many of the lowest of these layers, the stem first, stay as they are; `all`: all but the
    head."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the averaged weights, which are measured in place of the last ones; 0: none."""


class ClassifierEvaluateSettings(Section):
    every: Positive = 1
    """Epochs between two evaluations."""
    batch_size: BatchSize = 256
    """Images at once."""
    crop: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Resolution over shorter side; of files and shards."""


class ClassifierSettings(EpochRunSettings):
    """Everything a classification run depends on."""

    data: InputSettings
    """The images."""
    student: StudentSettings = StudentSettings()
    """The network that is trained."""
    teachers: dict[str, NetworkSettings] = Field(default={})
    """Frozen networks by names of your own."""
    objective: ObjectiveSettings = ObjectiveSettings()
    """The loss."""
    augment: AugmentSettings = AugmentSettings()
    """Augmentation of the training images."""
    train: ClassifierTrainSettings = Field(default_factory=ClassifierTrainSettings)
    """Length, optimiser and the training loop."""
    evaluate: ClassifierEvaluateSettings = ClassifierEvaluateSettings()
    """Evaluation on the held-out images."""
    cache: str | None = None
    """Folder in which teachers' outputs for fixed views are kept."""

    may_change: ClassVar[tuple[str, ...]] = (
        *EpochRunSettings.may_change, "train.accumulate", "data.root", "data.download",
        "cache",
    )  # fmt: skip

    @model_validator(mode="after")
    def _fits_together(self) -> "ClassifierSettings":
        if self.objective.needs_teachers and not self.teachers:
            raise ValueError("objective: its terms need a teacher: set `teachers`")
        if self.teachers and not self.objective.needs_teachers:
            raise ValueError("teachers: no term of the objective uses them; leave them out")
        if self.data.kind != "memory" and self.augment.crop == "padded":
            raise ValueError("augment.crop = padded is for small images: set data.kind = memory")
        if self.data.kind == "memory" and self.evaluate.crop != ClassifierEvaluateSettings().crop:
            raise ValueError("evaluate.crop belongs to data.kind = files or shards")
        if self.data.kind == "shards" and self.augment.views:
            raise ValueError("augment.views needs images that can be listed: not kind = shards")
        kept = self.augment.views and self.teachers and self.objective.early is None
        if self.cache is not None and not kept:
            raise ValueError(
                "cache: only outputs for fixed views are kept: set augment.views, and teachers, "
                "without objective.early"
            )
        if self.data.kind == "shards" and self.augment.repeats > 1:
            raise ValueError("data.kind = shards cannot repeat images: set augment.repeats = 1")
        return self


def load_settings(path: Path, overrides: list[str] | None = None) -> ClassifierSettings:
    """The settings of a run, from a YAML file or a run folder."""
    return load_as(ClassifierSettings, path, overrides)


class StudentFacts(Facts):
    """The facts stored beside a student's weights."""

    name: str
    options: dict[StudentOption, int | float | bool | str]
    stem: Literal["patch", "conv", "cit"] = "patch"
    tokens: Annotated[int, Field(ge=0, le=16)]
    classes: Annotated[list[str], Field(min_length=1)]
    resolution: Annotated[int, Field(ge=1, le=8192)]
    mean: Triple
    std: tuple[Above0, Above0, Above0]
    numbered: bool = False  # classes are numbers, since the names were not in a published file


def facts_of(settings: ClassifierSettings, classes: list[str], tokens: int) -> dict[str, Any]:
    """The facts needed to use a student's weights without its run folder.

    tokens: number of the student's distillation tokens.
    """
    return {
        "name": settings.student.name,
        "options": settings.student.options,
        "stem": settings.student.stem,
        "tokens": tokens,
        "classes": classes,
        "resolution": settings.data.resolution,
        "mean": list(settings.data.mean),
        "std": list(settings.data.std),
        "crop": settings.evaluate.crop if settings.data.kind != "memory" else 1.0,
    }

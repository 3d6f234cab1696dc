"""The settings of a detection run."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from classification.epochs.settings import (
    EpochPrecision,
    EpochRunSettings,
    EpochSettings,
    Triple,
)
from gan_vkd.data.decoding import MAX_MEGAPIXELS
from gan_vkd.data.settings import Megapixels
from gan_vkd.runtime.facts import Facts
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import (
    Above0,
    BatchSize,
    Count,
    Fraction,
    LearningRate,
    LeastLearningRate,
    Positive,
    Seed,
    Weight,
    Workers,
)
from gan_vkd.runtime.settings_file import load_as

SizeName = Literal["nano", "tiny", "small", "base"]


class CocoSettings(Section):
    """A folder as COCO: ROOT/train2017/*.jpg, ROOT/annotations/instances_train2017.json."""

    root: str
    """The folder."""
    train: str = "train2017"
    """Name of the training images' folder."""
    heldout: str | None = "val2017"
    """Name of the held-out images' folder; may be train's, to measure memorisation; null: none."""
    num_images: Positive | None = None
    """Size of a subset of train, drawn by seed; null: all."""
    heldout_num_images: Positive | None = None
    """Size of a subset of heldout; null: all."""
    seed: Seed = 0
    """Of the subsets."""
    classes: Positive | None = None
    """null: the largest category number plus one."""
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


class DetectorSettings(Section):
    """A ViDT."""

    size: SizeName = "nano"
    """Of the body."""
    queries: Positive = 100
    """Number of [DET] tokens: the most objects that are found in an image."""
    width: Annotated[int, Field(ge=16, le=65_536, multiple_of=16)] = 256
    """Of the neck."""
    layers: Annotated[int, Field(ge=0, le=1000)] = 6
    """Of the neck."""
    hidden: Positive = 1024
    """Width of the neck's feed-forward layers."""
    dropout: Fraction = 0.1
    """In the neck."""
    drop_path: Fraction | None = None
    """Largest probability of leaving out a block of the body; null: as published for the size."""
    fusion: bool = False
    """ViDT+: of the maps, from coarse to fine."""
    iou_aware: bool = False
    """ViDT+: predicts the IoU of its boxes as well."""
    window: Annotated[int, Field(ge=2, le=64)] = 7
    """Of the body, in patches of 4 pixels and more."""
    weights: str | None = None
    """"published" or "published_150": a whole ViDT, trained on COCO for 50 or 150 epochs;
    "imagenet": the body only; or a file: a run's detector, a published ViDT, or a Swin classifier.
    null: random."""


class DistillationSettings(Section):
    """The distillation loss between the tokens of student and teacher.

    padding: whether patches outside of their image are matched and counted in the statistics, as in
    the released code, or left out.
    """

    method: Literal["vkd", "token_matching"] = "vkd"
    """VkD, or ViDT's token matching."""
    projection: Literal[
        "orthogonal", "orthogonal_fixed", "orthogonal_static", "orthogonal_full", "cayley",
        "householder", "linear", "mlp", "identity",
    ] = "orthogonal"  # fmt: skip
    """From the student's tokens to the teacher's."""
    standardize: Literal["both", "teacher", "none"] = "both"
    """Whose tokens are standardised before the distance."""
    padding: Literal["left_out", "counted"] = "left_out"
    """Whether patches outside of their image are matched and counted in the statistics, as in the
    released code, or left out."""
    patches: Weight = 1.0
    """Weight of the patch tokens."""
    body: Weight = 1.0
    """Weight of the body's [DET] tokens."""
    neck: Weight = 1.0
    """Weight of the neck's [DET] tokens."""
    weight: Above0 = 4.0
    """Of their sum."""

    @property
    def idle(self) -> dict[str, str]:
        return self._unless("method", "vkd", "projection", "standardize", "padding")

    @model_validator(mode="after")
    def _teaches(self) -> "DistillationSettings":
        if not self.patches and not self.body and not self.neck:
            raise ValueError("patches, body and neck are all 0: set at least one weight above 0")
        return self


class CriterionSettings(Section):
    """Weights of the losses, and of the costs that predictions are matched with."""

    class_weight: Weight = 2.0
    """Of the focal loss of classes."""
    box_weight: Weight = 5.0
    """Of the L1 loss of boxes."""
    giou_weight: Weight = 2.0
    """Of the generalised IoU loss of boxes."""
    iou_weight: Weight = 2.0
    """Of the loss of predicted IoUs, with student.iou_aware."""
    cost_class: Weight = 2.0
    """Of classes in the matching."""
    cost_box: Weight = 5.0
    """Of the L1 distance of boxes in the matching."""
    cost_giou: Weight = 2.0
    """Of the generalised IoU of boxes in the matching."""
    focal_alpha: Fraction = 0.25
    """alpha of the focal loss."""
    focal_gamma: Weight = 2.0
    """gamma of the focal loss."""


class BoxAugmentSettings(Section):
    """DETR's augmentation.

    scales: the shorter side is resized to one of these at random. Half of the images are first
    resized to one of crop_scales and cropped to sides within crop_sizes; no image is where
    crop_scales is empty.
    """

    scales: Annotated[list[Positive], Field(min_length=1)] = Field(default=[*range(480, 801, 16)])
    """The shorter side is resized to one of these at random."""
    longest: Positive = 1333
    """Limit of the longer side."""
    flip: Fraction = 0.5
    """Probability of mirroring an image."""
    crop_scales: list[Positive] = Field(default=[400, 500, 600])
    """Half of the images are first resized to one of these and cropped; empty: none."""
    crop_sizes: tuple[Positive, Positive] = (384, 600)
    """Least and greatest side of such a crop."""

    @model_validator(mode="after")
    def _in_order(self) -> "BoxAugmentSettings":
        if self.crop_sizes[0] > self.crop_sizes[1]:
            raise ValueError("crop_sizes: the smaller side comes first")
        return self


class DetectorTrainSettings(EpochSettings):
    epochs: Positive = 50
    """Passes over the training images."""
    batch_size: BatchSize = 16
    lr: LearningRate = 1e-4
    """Learning rate for 16 images; scaled by batch_size."""
    min_lr: LeastLearningRate = 1e-7
    warmup_epochs: Count = 0
    weight_decay: Weight = 1e-4
    clip_norm: Above0 | None = 0.1
    body_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The body's share of the learning rate."""
    padded_to: Literal["rank", "update"] = "rank"
    """The largest image of a rank's part, or of all, which a batch is padded to."""
    precision: EpochPrecision = "float32"
    teacher_precision: EpochPrecision = "float32"


class DetectorEvaluateSettings(Section):
    every: Positive = 1
    """Epochs between two evaluations."""
    batch_size: BatchSize = 2
    """Images padded together, which changes the outputs; 2 as published."""
    scale: Positive = 800
    """Of the shorter side."""
    longest: Positive = 1333
    """Limit of the longer side."""
    layers: Count | None = None
    """Of the neck that are computed (decoding layer drop); null: all."""


class DetectionSettings(EpochRunSettings):
    """Everything a detection run depends on."""

    data: CocoSettings
    """The images and boxes."""
    student: DetectorSettings = DetectorSettings()
    """The detector that is trained."""
    teacher: DetectorSettings | None = None
    """A frozen ViDT; null: none."""
    distill: DistillationSettings | None = None
    """The loss between their tokens; null: none."""
    criterion: CriterionSettings = CriterionSettings()
    """The loss on boxes."""
    augment: BoxAugmentSettings = BoxAugmentSettings()
    """Augmentation of the training images."""
    train: DetectorTrainSettings = Field(default_factory=DetectorTrainSettings)
    """Length, optimiser and the training loop."""
    evaluate: DetectorEvaluateSettings = DetectorEvaluateSettings()
    """Evaluation on the held-out images."""

    may_change: ClassVar[tuple[str, ...]] = (*EpochRunSettings.may_change, "data.root")

    lr_batch = 16  # as in ViDT

    @model_validator(mode="after")
    def _fits_together(self) -> "DetectionSettings":
        if (self.teacher is None) != (self.distill is None):
            raise ValueError("distill and teacher belong together: set both, or neither")
        if self.teacher is not None and self.teacher.weights is None:
            raise ValueError("the teacher has no weights: set teacher.weights to a file")
        if self.teacher is not None and self.teacher.queries != self.student.queries:
            raise ValueError("[DET] tokens are matched one by one: queries must be equal")
        if self.teacher is not None and self.teacher.layers != self.student.layers:
            raise ValueError("the necks' tokens are matched layer by layer: layers must be equal")
        if (self.evaluate.layers or 0) > self.student.layers:
            raise ValueError("evaluate.layers is more than student.layers: set it lower, or null")
        if self.teacher is not None and self.teacher.fusion != self.student.fusion:
            raise ValueError("fusion changes the order of the maps: set it alike in both")
        return self


def load_settings(path: Path, overrides: list[str] | None = None) -> DetectionSettings:
    """The settings of a run, from a YAML file or a run folder."""
    return load_as(DetectionSettings, path, overrides)


class DetectorFacts(Facts):
    """The facts stored beside a detector's weights."""

    detector: DetectorSettings
    classes: Annotated[int, Field(ge=1, le=100_000)]
    categories: dict[Annotated[str, Field(pattern="^[0-9]{1,6}$")], str]
    mean: Triple
    std: tuple[Above0, Above0, Above0]
    scale: Annotated[int, Field(ge=1, le=8192)]
    longest: Annotated[int, Field(ge=1, le=8192)]
    numbered: bool = False  # the categories' names were not in a published file


def facts_of(settings: DetectionSettings, categories: dict[int, str]) -> dict[str, Any]:
    """The facts needed to use a detector's weights without its run folder."""
    return {
        "detector": settings.student.model_dump(exclude={"weights"}),
        "classes": settings.data.classes or max(categories) + 1,
        "categories": {str(number): name for number, name in categories.items()},
        "mean": list(settings.data.mean),
        "std": list(settings.data.std),
        "scale": settings.evaluate.scale,
        "longest": settings.evaluate.longest,
    }

"""The settings of a run: what they are called, which values they take, what belongs together."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, field_validator, model_validator

from gan_vkd.settings_file import Section, load_as

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Above0 = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy takes
Prompt = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]  # with {} for the name


def number_or(*words: str, number: str, fits: Callable[[float], bool]) -> BeforeValidator:
    """One of the words, or a number that fits, which `number` describes: one fault for both."""

    def checked(value: Any) -> Any:
        with suppress(ValueError, TypeError):
            if value in words or fits(float(value)):
                return value
        raise ValueError(f"expected {number}, or {', '.join(words)}")

    return BeforeValidator(checked)


AutoWeight = Annotated[
    float | Literal["auto"],
    number_or("auto", number="a number above 0", fits=lambda x: 0 < x < float("inf")),
]
Shrinkage = Annotated[
    float | Literal["auto", "ledoit_wolf", "oas"],
    number_or(
        "auto", "ledoit_wolf", "oas", number="a number from 0 to 1", fits=lambda x: 0 <= x <= 1
    ),
]


WITH_TEST_SPLIT = ("cifar10", "cifar100", "digits")


class DataSettings(Section):
    """What is trained on. `source`: cifar10, cifar100, digits, or the path of a folder or zip."""

    source: str
    root: str = "data"  # where torchvision's CIFAR lies or is put
    download: bool = True
    heldout: str | None = "test"  # "test" (the source's own), a folder or zip, or null
    resolution: Literal[32, 64] = 32
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    num_images: Positive | None = None
    seed: Seed = 0  # of the subset
    conditional: bool | None = None  # null: as the data has classes
    flip: bool = True
    damaged: Literal["refuse", "skip"] = "refuse"

    @model_validator(mode="after")
    def _one_size(self) -> "DataSettings":
        if self.fraction is not None and self.num_images is not None:
            raise ValueError("give fraction or num_images, not both")
        return self


class ModelSettings(Section):
    ch: Positive = 64
    z_dim: Positive = 128


class LayerSettings(Section):
    """Where a network is read, and how what comes out there is pooled to one vector a sample."""

    layer: str | None = None  # a module's name; null: the network's usual features
    pool: Literal["mean", "sum", "first"] = "mean"
    prefix_tokens: Annotated[int, Field(ge=0)] = 0  # left out of a mean or sum over tokens
    channels_last: bool = False  # maps are (B, H, W, d), as in Swin


class NetworkSettings(LayerSettings):
    """A frozen network by name: cifar_resnet20 (32, 44, 56, 110), timm/NAME, discriminator,
    classifier (a checkpoint of `vkd teach`) or, for evaluation, one of INCEPTION."""

    name: str
    weights: str | None = None  # a local copy; null: the published download
    size: Positive | None = None  # null: the network's own
    enlarge: Literal["bicubic", "nearest"] = "bicubic"  # how images come to that size
    normalize: bool = True  # false: it sees images in [-1, 1] as they are


class PairSettings(Section):
    """A layer of the discriminator and the layer of the teacher that it is to match."""

    student: LayerSettings = LayerSettings()  # null layer: what the score is taken from
    teacher: LayerSettings | None = None  # null: as distill.teacher says
    weight: Above0 = 1.0

    @property
    def at_the_score(self) -> bool:
        """Whether the student's features are those that the score is taken from."""
        return self.student.layer in (None, "pool")


class StudentSettings(Section):
    """What of the discriminator's pooled features is distilled (gan_vkd/distill/student.py)."""

    feature: Literal["pooled", "mean", "head", "plain_head"] = "pooled"
    scaling: Literal["none", "batch", "learnt"] = "none"


class WhiteningSettings(Section):
    momentum: Fraction = 0.0
    eps: Annotated[float, Field(ge=0)] = 1e-5
    # auto: width of a group / (that + samples)
    shrinkage: Shrinkage = "auto"
    # principal directions that are kept: so many, a share of the variance, those that agree in two
    # augmented views of an image; null: all
    directions: int | float | Literal["agreement"] | None = None
    agreement: Annotated[float, Field(gt=0, le=1)] = 0.5  # the least correlation of the two views
    every: Positive = 100
    groups: Positive = 1

    @field_validator("directions", mode="before")
    @classmethod
    def _number_or_share(cls, value: Any) -> Any:
        known = value is None or value == "agreement"
        number = type(value) is int and value >= 1
        share = type(value) is float and 0 < value < 1
        if not (known or number or share):
            raise ValueError("expected a whole number, a share below 1, agreement or null")
        return value

    @property
    def idle(self) -> dict[str, str]:
        return self._unless("directions", "agreement", "agreement")

    @model_validator(mode="after")
    def _counts_samples(self) -> Self:
        if self.shrinkage in ("ledoit_wolf", "oas") and self.momentum > 0:
            raise ValueError(f"shrinkage = {self.shrinkage} counts samples: set momentum = 0")
        return self


class TextSettings(Section):
    """A text tower of open_clip whose embeddings of the classes lie in the teacher's space."""

    model: str = "ViT-B-32-quickgelu"
    weights: str = "openai"  # a published tag, or a local copy
    names: list[str] | None = None  # of the classes; null: those of the data
    prompts: Annotated[list[Prompt], Field(min_length=1)] = ["a {}"]  # KD-DLGAN's; a mean over them
    normalize: bool = True  # to unit length; false as KD-DLGAN's code


Method = Literal["vkd", "fitnets", "pkd", "spkd", "rkd", "vicreg"]
Distance = Literal["mse", "smooth_l1", "l1", "norm", "cosine"]


class MethodSettings(Section):
    """A loss on features, by name, with what it needs (gan_vkd.distill)."""

    method: Method = "vkd"
    projection: Literal[
        "orthogonal",
        "orthogonal_fixed",
        "orthogonal_static",
        "orthogonal_full",
        "cayley",
        "householder",
        "linear",
        "mlp",
        "identity",
    ] = "orthogonal"
    normalization: Literal[
        "whitening",
        "whitening_pca",
        "whitening_cholesky",
        "phi_s",
        "layer_norm",
        "standardize",
        "l2",
        "none",
    ] = "whitening"
    whitening: WhiteningSettings = WhiteningSettings()  # of the first three
    statistics: Literal["running", "batch"] = "running"  # what a batch is normalised by
    distance: Distance = "mse"
    pkd_form: Literal["paper", "code"] = "paper"  # the code's loss is a batch's size times smaller

    @model_validator(mode="after")
    def _statistics_fit(self) -> Self:
        fitted = self.whitens or self.normalization in ("standardize", "phi_s")
        if self.statistics != "running" and not (self.method == "vkd" and fitted):
            normalization = self.normalization if self.method == "vkd" else self.method
            raise ValueError(f"statistics = {self.statistics}, but {normalization} has none")
        directions = self.whitening.directions
        if directions is not None and self.normalization == "whitening_cholesky":
            raise ValueError("whitening.directions: a cholesky factor has none, leave them out")
        if directions == "agreement" and self.statistics in ("running", "batch"):
            raise ValueError("whitening.directions = agreement needs statistics = training_set")
        return self

    @property
    def idle(self) -> dict[str, str]:
        names = "projection", "normalization", "whitening", "distance"
        without = f"belongs to a whitening, but normalization = {self.normalization}"
        none = {} if self.whitens else {"whitening": without}
        vkd = self._unless("method", "vkd", *names)
        return none | vkd | self._unless("method", "pkd", "pkd_form")

    def options(self) -> dict[str, Any]:
        """What the class of the method takes."""
        if self.method == "pkd":
            return {"form": self.pkd_form}
        if self.method != "vkd":
            return {}
        return {
            "projection": self.projection,
            "normalization": self.normalization,
            "distance": self.distance,
            **({"statistics": "batch"} if self.statistics == "batch" else {}),
            **(self.whitening.model_dump() if self.whitens else {}),
        }

    @property
    def whitens(self) -> bool:
        return self.normalization.startswith("whitening")


class DistillSettings(MethodSettings):
    teacher: NetworkSettings
    method: Literal[Method, "kd_dlgm"] = "vkd"  # type: ignore[assignment]
    pairs: Annotated[list[PairSettings], Field(min_length=1)] = [PairSettings()]
    text: TextSettings | None = None  # null: the rows of the teacher's classifier
    student: StudentSettings = StudentSettings()
    spectral_head: bool = True  # KD-DLGM's head is spectrally normalised, as released
    aggregated: Weight = 0.0  # of KD-DLGM's aggregated term beside another method; 10 as published
    weight: AutoWeight = 10.0  # auto: as gradient_ratio says
    gradient_ratio: Above0 = 1.0  # of the distillation's to the game's, at the pooled features
    images: Literal["both", "real", "fake"] = "both"
    view: Literal["augmented", "clean"] = "augmented"
    statistics: Literal["running", "batch", "training_set"] = "running"  # type: ignore[assignment]

    @property
    def idle(self) -> dict[str, str]:
        idle = super().idle | self._unless("method", "kd_dlgm", "text", "spectral_head")
        idle |= self._unless("weight", "auto", "gradient_ratio")
        if self.method == "kd_dlgm":
            idle["aggregated"] = "belongs to other methods: it is a part of kd_dlgm"
            idle["student"] = "belongs to other methods: kd_dlgm has a head of its own"
        return idle

    def options(self) -> dict[str, Any]:
        if self.method == "kd_dlgm":
            return {"spectral": self.spectral_head}
        return super().options()

    @model_validator(mode="after")
    def _fits_together(self) -> "DistillSettings":
        if self.method == "kd_dlgm" and self.images != "both":
            raise ValueError("kd_dlgm compares real with fake images: set images = both")
        if self.aggregated and self.images != "both":
            raise ValueError("aggregated compares real with fake images: set images = both")
        if self.score_pair is None and (self.weight == "auto" or self.aggregated):
            raise ValueError(
                "weight = auto and aggregated need a pair that reads the discriminator where its "
                "score is taken"
            )
        return self

    @property
    def score_pair(self) -> int | None:
        """The place of the first pair that reads the features which the score is taken from."""
        return next((i for i, pair in enumerate(self.pairs) if pair.at_the_score), None)

    @property
    def needs_bank(self) -> bool:
        """Whether the teacher's features of all clean real images are asked for."""
        looked_up = self.view == "clean" and self.images != "fake"
        return looked_up or (self.statistics == "training_set" and not self.needs_views)

    @property
    def needs_views(self) -> bool:
        """Whether its features of two augmented views of them are."""
        return self.whitening.directions == "agreement"


class RegularizeSettings(Section):
    """Weights of the discriminator's regularisers (gan_vkd/regularization.py); 0 is without."""

    lecam: Weight = 0.0
    lecam_start: Annotated[int, Field(ge=0)] = 1000  # in iterations
    consistency: Weight = 0.0
    consistency_images: Literal["real", "both"] = "both"  # CR or balanced CR
    r1: Weight = 0.0
    r1_every: Positive = 16  # updates of the discriminator


class LoopSettings(Section):
    """What every training's loop is told (gan_vkd/loop.py)."""

    log_every: Positive = 50
    checkpoint_every: Positive = 1000
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2  # the newest, beside the best one
    returns: Annotated[int, Field(ge=0)] = 0  # to the last checkpoint, from what is not finite
    return_lr_factor: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the learning rates, at each


class TrainSettings(LoopSettings):
    iterations: Positive = 125_000  # of d_steps discriminator updates and one of the generator
    batch_size: Positive = 50
    d_steps: Positive = 4
    precision: Literal["float32", "bfloat16"] = "float32"  # of convolutions and linear layers
    g_lr: Above0 = 2e-4
    d_lr: Above0 = 2e-4
    betas: tuple[Beta, Beta] = (0.0, 0.999)
    ema_decay: Fraction = 0.9999
    ema_start: Annotated[int, Field(ge=0)] = 1000
    sample_every: Positive = 1000


# Inception by clean-fid's mode, which says how its input is resized: on the outside by Pillow, or
# by the network itself, as by the TensorFlow code that the published figures were taken with
INCEPTION = {"inception": "clean", "inception_legacy_tensorflow": "legacy_tensorflow"}


class EvaluateSettings(Section):
    every: Positive = 4000
    features: NetworkSettings = NetworkSettings(name="inception")  # the first judge: picks the best
    also: list[NetworkSettings] = []  # further judges of the same samples, for distances alone
    reference: str = "heldout"  # heldout, train, or the path of a folder or zip
    num_samples: Annotated[int, Field(ge=2)] = 10_000
    batch_size: Positive = 100
    seed: Seed = 0
    # statistics of the sampled generator's batch norm: estimated anew for its weights, as they are
    # stored, or of each batch of samples
    batch_norm: Literal["standing", "running", "batch"] = "standing"
    standing_batches: Positive = 16  # of batch_size samples, that they are estimated from

    @property
    def idle(self) -> dict[str, str]:
        return self._unless("batch_norm", "standing", "standing_batches")

    @property
    def judges(self) -> list[NetworkSettings]:
        return [self.features, *self.also]

    @property
    def inseparable(self) -> int:
        """Samples that depend on one another."""
        return self.batch_size if self.batch_norm == "batch" else 1

    @model_validator(mode="after")
    def _whole_batches(self) -> "EvaluateSettings":
        if self.num_samples % self.inseparable:
            raise ValueError(
                f"batch_norm = batch takes whole batches, and num_samples = {self.num_samples} is "
                f"no multiple of batch_size = {self.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _inception_as_it_is(self) -> "EvaluateSettings":
        for judge in self.judges:
            plain = NetworkSettings(name=judge.name, weights=judge.weights)
            if judge.name in INCEPTION and judge != plain:
                key = "features" if judge is self.features else "also"
                raise ValueError(f"{key}: {judge.name} is read as published, in no other way")
        return self


class RunSettings(Section):
    """What every run is told."""

    arm: str  # the row of the table that the run belongs to
    seed: Seed = 0
    device: str = "auto"
    train: LoopSettings = LoopSettings()

    # Settings, or their beginnings, that may be others when a run is continued: what it reports,
    # what it does in trouble
    may_change: ClassVar[tuple[str, ...]] = (
        "device", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints",
        "train.returns", "evaluate.every",
    )  # fmt: skip

    @property
    def total(self) -> int | None:
        """Iterations that make a run finished; None: as many as its checkpoint says."""
        return None

    @property
    def length(self) -> str:
        """Of a finished run, in words."""
        raise NotImplementedError

    @property
    def relief(self) -> str:
        """What to do without memory."""
        raise NotImplementedError

    def dump(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


class Settings(RunSettings):
    """Everything a GAN's run depends on."""

    cache: str | None = None  # a folder for features of real images, computed once
    data: DataSettings
    model: ModelSettings = ModelSettings()
    augment: list[Literal["color", "translation", "cutout"]] = ["translation", "cutout"]
    distill: DistillSettings | None = None
    regularize: RegularizeSettings = RegularizeSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    may_change: ClassVar[tuple[str, ...]] = (
        *RunSettings.may_change, "train.iterations", "train.sample_every", "data.root",
        "data.download", "cache",
    )  # fmt: skip

    @model_validator(mode="after")
    def _views_differ(self) -> "Settings":
        if self.distill is not None and self.distill.needs_views and not self.augment:
            raise ValueError(
                "distill.whitening.directions = agreement compares augmented views: set augment"
            )
        return self

    @property
    def total(self) -> int:
        return self.train.iterations

    @property
    def length(self) -> str:
        return f"{self.train.iterations} iterations"

    @property
    def relief(self) -> str:
        return (
            f"ch {self.model.ch}, batch {self.train.batch_size}: set a smaller train.batch_size "
            "or model.ch, or share the batch by more ranks"
        )

    @property
    def cache_folder(self) -> Path | None:
        return None if self.cache is None else Path(self.cache).expanduser()


def load_settings(path: Path, overrides: list[str] | None = None) -> Settings:
    """The settings of a run, from a YAML file or a run folder."""
    return load_as(Settings, path, overrides)

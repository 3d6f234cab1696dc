"""The settings of a GAN run: distillation, regularisers, training, and the complete settings."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from gan_vkd.data.augment import AUGMENTATIONS
from gan_vkd.data.settings import DataSettings
from gan_vkd.distill import METHODS
from gan_vkd.evaluation.settings import EvaluateSettings
from gan_vkd.game.adversary import ADVERSARIES
from gan_vkd.game.ema import DecayOverTime
from gan_vkd.networks.interface import NETWORKS
from gan_vkd.runtime.components import Choice, OneOf, choice
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.precision import Precision
from gan_vkd.runtime.schedule import Schedule, number_or_schedule, over_run
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import (
    STORED_KEYS,
    Above0,
    BatchSize,
    Count,
    LoopSettings,
    Positive,
    RunSettings,
    Weight,
    number_or,
)
from gan_vkd.runtime.settings_file import load_as
from gan_vkd.teachers.earlier import with_method
from gan_vkd.teachers.settings import LayerSettings, NetworkSettings, TextSettings

R1Weight = Annotated[
    float | Literal["auto"] | Schedule,
    number_or_schedule("auto", number="a number from 0 to 1e12", fits=lambda x: 0 <= x <= 1e12),
]
R2Weight = Annotated[
    float | Schedule,
    number_or_schedule(number="a number from 0 to 1e12", fits=lambda x: 0 <= x <= 1e12),
]
RateOverTime = Annotated[
    float | Schedule,
    number_or_schedule(number="a number above 0, at most 1e30", fits=lambda x: 0 < x <= 1e30),
]
BetaOverTime = Annotated[
    float | Schedule,
    number_or_schedule(number="a number from 0, below 1", fits=lambda x: 0 <= x < 1),
]
AutoWeight = Annotated[
    float | Literal["auto"],
    number_or("auto", number="a number above 0, at most 1e12", fits=lambda x: 0 < x <= 1e12),
]


class PairSettings(Section):
    """A layer of the discriminator and the layer of the teacher that it is distilled from."""

    student: LayerSettings = LayerSettings()
    """Layer of the discriminator; with `layer` null the features that the score is computed
    from."""
    teacher: LayerSettings | None = None
    """Layer of the teacher; null: that of `distill.teacher`."""
    weight: Above0 = 1.0
    """Of this pair in the sum."""

    @property
    def at_the_score(self) -> bool:
        """Whether the student features are those that the score is computed from."""
        return self.student.layer is None


class StudentSettings(Section):
    """How student features are made from pooled features (gan_vkd/distill/student.py)."""

    feature: Literal["pooled", "mean", "head", "plain_head"] = "pooled"
    """The feature of the score that is distilled: the sum over positions, their mean, or the output
    of KD-DLGAN's two linear layers with or without spectral norm."""
    scaling: Literal["none", "batch", "learnt"] = "none"
    """Nothing, centred and divided by one scale of the batch, or one learnt scale and bias."""


class DistillSettings(Section):
    """The distillation of a frozen teacher into the discriminator."""

    teacher: NetworkSettings
    """The frozen network that is distilled."""
    method: Annotated[Choice, OneOf(METHODS, "vkd")] = choice("vkd")
    """The loss between student and teacher features."""
    pairs: Annotated[list[PairSettings], Field(min_length=1)] = [PairSettings()]
    """Layers of discriminator and teacher, each pair with its own projection."""
    text: TextSettings | None = None
    """Texts of the classes, for methods that compare with them; null: the rows of the teacher's
    classifier."""
    student: StudentSettings = StudentSettings()
    """The student feature at the score."""
    aggregated: Weight = 0.0
    """Weight of KD-DLGM's aggregated term, added to another method; 10 as published, 0: none."""
    weight: AutoWeight = 10.0
    """Of the loss; `auto`: determined by gradient_ratio in each update."""
    gradient_ratio: Above0 = 1.0
    """Norm of the distillation loss's gradient over the adversarial loss's, at the features of the
    score."""
    images: Literal["both", "real", "fake"] = "both"
    """Images to distil on."""
    view: Literal["augmented", "clean"] = "augmented"
    """The teacher sees images as the discriminator does, or without augmentation."""
    every: Positive = 1
    """Distil in every k-th update: 1/k of the teacher's cost, and of its effect."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, tree: Any) -> Any:
        return with_method(tree)

    @property
    def idle(self) -> dict[str, str]:
        idle = self._unless("weight", "auto", "gradient_ratio")
        if self.takes_text:
            why = f"belongs to other methods: {self.method.name} has a head and this term"
            return idle | dict.fromkeys(("aggregated", "student"), why)
        return idle | {"text": f"belongs to methods with texts, which {self.method.name} is not"}

    @model_validator(mode="after")
    def _fits_together(self) -> "DistillSettings":
        for name, chosen in ((self.method.name, self.takes_text), ("aggregated", self.aggregated)):
            if chosen and self.images != "both":
                raise ValueError(f"{name} compares real with fake images: set images = both")
        if self.score_pair is None and (self.weight == "auto" or self.aggregated):
            raise ValueError(
                "weight = auto and aggregated need a pair with student.layer = null, which reads "
                "the features of the score"
            )
        if self.needs_views and self._normalization.get("statistics") != "training_set":
            raise ValueError(
                "method.normalization: directions = agreement needs statistics = training_set"
            )
        return self

    @property
    def takes_text(self) -> bool:
        """Whether the method compares with class embeddings and has its own head."""
        return getattr(METHODS[self.method.name], "takes_text", False)

    @property
    def score_pair(self) -> int | None:
        """Index of the first pair that reads the features of the score; None if there is none."""
        return next((i for i, pair in enumerate(self.pairs) if pair.at_the_score), None)

    @property
    def _normalization(self) -> dict[str, Any]:
        return self.method.chosen.get("normalization", {})

    @property
    def needs_bank(self) -> bool:
        """Whether the teacher's features of all clean real images are needed."""
        looked_up = self.view == "clean" and self.images != "fake"
        return looked_up or self.fits_bank

    @property
    def fits_bank(self) -> bool:
        """Whether the normalisation is fitted to the features of all clean real images."""
        chosen = self._normalization.get("statistics") == "training_set"
        return chosen and not self.needs_views

    @property
    def needs_views(self) -> bool:
        """Whether the teacher's features of two augmented views of all real images are needed."""
        return self._normalization.get("directions") == "agreement"


class RegularizeSettings(Section):
    """Weights of the regularisers (game/regularization.py, of the generator
    game/generator_regularization.py); 0 disables one."""

    lecam: Weight = 0.0
    """Weight of LeCam's regulariser."""
    lecam_start: Count = 1000
    """Iterations before it."""
    consistency: Weight = 0.0
    """Weight of consistency regularisation."""
    consistency_images: Literal["real", "both"] = "both"
    """CR (real images) or balanced CR (both)."""
    r1: R1Weight = 0.0
    """Weight of the gradient penalty at real images; auto: 0.0002 * height * width / batch size, as
    in StyleGAN2-ADA (Karras et al., NeurIPS 2020)."""
    r2: R2Weight = 0.0
    """Weight of the gradient penalty at generated images."""
    r1_every: Positive = 16
    """Updates of the discriminator between two penalties, for r1 and r2; 1 in R3GAN."""
    path_length: Weight = 0.0
    """Weight of path length regularisation, of networks with styles; 2 as published."""
    path_length_every: Positive = 4
    """Updates of the generator between two of them."""


class TrainSettings(LoopSettings):
    iterations: Positive = 125_000
    """Each has d_steps updates of the discriminator and one of the generator."""
    batch_size: BatchSize = 50
    """Real, and as many generated, images of an update."""
    d_steps: Positive = 4
    """Updates of the discriminator in an iteration."""
    precision: Precision = "auto"
    """Of the convolutions and linear layers of the networks, the teacher included."""
    graph: bool = True
    """CUDA graphs of the updates, on one GPU."""
    g_lr: RateOverTime = 2e-4
    """Learning rate of the generator."""
    d_lr: RateOverTime = 2e-4
    """Learning rate of the discriminator."""
    betas: tuple[BetaOverTime, BetaOverTime] = (0.0, 0.999)
    """Of Adam, for both networks."""
    ema_decay: DecayOverTime = 0.9999
    """Of the averaged generator: a number, or {half_life: images or auto, ramp_up: 0.05}."""
    ema_start: Count = 1000
    """Iterations in which the averaged generator is a copy."""
    freeze_d: Count = 0
    """Layers of the discriminator, from the image on, that are not trained."""
    sample_every: Positive = 1000
    """Iterations between two grids of samples."""
    sample_first: Positive | None = None
    """Further grids before that: after this many iterations, and 2, 4, 8, ... times as many."""

    @model_validator(mode="before")
    @classmethod
    def _without_a_precision(cls, tree: Any) -> Any:
        """Stored sections of versions without this setting are of runs in float32."""
        stored = isinstance(tree, dict) and tree.keys() >= STORED_KEYS
        return {"precision": "float32"} | tree if stored else tree


class Settings(RunSettings):
    """The complete settings of a GAN run."""

    cache: str | None = None
    """Folder in which features of real images are kept between runs."""
    init_from: str | None = None
    """Run folder or file of weights that the networks start from, with train.ema_start = 0 and no
    ramp_up, since the EMA starts there too; not read again when the run is resumed."""
    data: DataSettings
    """The images."""
    model: Annotated[Choice, OneOf(NETWORKS, "biggan")] = choice("biggan")
    """The pair of networks."""
    adversary: Annotated[Choice, OneOf(ADVERSARIES)] = choice("hinge")
    """The adversarial loss."""
    augment: list[Annotated[Choice, OneOf(AUGMENTATIONS)]] = Field(
        default=["translation", "cutout"], validate_default=True
    )
    """Augmentations of all images that the discriminator sees, in this order."""
    distill: DistillSettings | None = None
    """Distillation into the discriminator; null: none."""
    regularize: RegularizeSettings = RegularizeSettings()
    """Regularisers."""
    train: TrainSettings = Field(default_factory=TrainSettings)
    """Length, optimisers and the training loop."""
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    """Sampling, distances and metrics."""

    may_change: ClassVar[tuple[str, ...]] = (
        *RunSettings.may_change, "train.iterations", "train.sample_every", "train.sample_first",
        "train.graph", "evaluate.metrics",
        "data.root", "data.download", "cache",
    )  # fmt: skip

    @model_validator(mode="after")
    def _views_differ(self) -> "Settings":
        if self.distill is not None and self.distill.needs_views:
            fixed = [
                part
                for part in self.augment
                if part.chosen.get("p") != "adaptive" and not part.chosen.get("ramp")
            ]
            if not fixed:
                raise ValueError(
                    "distill.method.normalization.directions = agreement compares augmented views: "
                    "set augment, with a number for p and no ramp"
                )
        return self

    @model_validator(mode="after")
    def _network_has_the_resolution(self) -> "Settings":
        NETWORKS.make(self.model.chosen).require(self.data.shape)
        return self

    @model_validator(mode="after")
    def _path_lengths_need_styles(self) -> "Settings":
        if self.regularize.path_length and not NETWORKS.make(self.model.chosen).has_styles:
            raise ValueError(
                f"regularize.path_length = {self.regularize.path_length:g}: model = "
                f"{self.model.name} has no styles; set it to 0, or model=stylegan2"
            )
        return self

    def of_channels(self, channels: int) -> "Settings":
        """The same with this number of channels: that of a training set which has been read."""
        return self.model_copy(update={"data": self.data.of_channels(channels)})

    def of_length(self) -> "Settings":
        """The same with schedules over `auto` iterations as long as the run."""
        return type(self).model_validate(over_run(self.model_dump(), self.total))

    @property
    def policy(self) -> list[dict[str, Any]]:
        """The augmentations with their options; a `flip` that is null is that of the data."""
        parts = over_run([part.chosen for part in self.augment], self.total)
        return [
            part | {"flip": self.data.flip} if part.get("flip", "") is None else part
            for part in parts
        ]

    @property
    def total(self) -> int:
        return self.train.iterations

    @property
    def length(self) -> str:
        return f"{self.train.iterations} iterations"

    @property
    def relief(self) -> str:
        return (
            f"{self.model}, batch {self.train.batch_size}: set a smaller train.batch_size or a "
            "narrower model, or use more ranks"
        )

    @property
    def cache_folder(self) -> Path | None:
        return None if self.cache is None else user_path(self.cache)


def load_settings(path: Path, overrides: list[str] | None = None) -> Settings:
    """Loads the settings of a run from a YAML file or a run folder."""
    return load_as(Settings, path, overrides)

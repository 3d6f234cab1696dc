"""One component of every kind, as a third-party package would add them."""

import math
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gan_vkd.data.augment import AUGMENTATIONS, Augmentation
from gan_vkd.data.image_set import SOURCES, ImageSet
from gan_vkd.data.settings import DataSettings
from gan_vkd.data.shape import Shape
from gan_vkd.distill import METHODS, NORMALIZATIONS, PROJECTIONS, Normalization, Projection
from gan_vkd.evaluation.metrics import METRICS, Samples
from gan_vkd.game.adversary import ADVERSARIES, Adversary
from gan_vkd.networks.interface import (
    NETWORKS,
    Architecture,
    Discriminator,
    DiscriminatorOutput,
    Generator,
)
from gan_vkd.runtime.loggers import LOGGERS, Logger
from gan_vkd.runtime.registry import Chosen
from gan_vkd.teachers.interface import HALF, TEACHERS, Built
from gan_vkd.teachers.settings import NetworkSettings


@PROJECTIONS.register("own_projection")
class OwnProjection(Projection):
    def __init__(self, student_width: int, teacher_width: int, *, bias: bool = False) -> None:
        super().__init__(student_width, teacher_width)
        self.map = nn.Linear(student_width, teacher_width, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.map(features)


@NORMALIZATIONS.register("own_normalization")
class OwnNormalization(Normalization):
    def __init__(self, width: int, *, factor: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__(width)
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        return self.factor * features.detach().float()


@METHODS.register("own_method")
class OwnMethod(nn.Module):
    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        *,
        projection: Annotated[Chosen, PROJECTIONS] = "own_projection",
        normalization: Annotated[Chosen, NORMALIZATIONS] = "own_normalization",
    ) -> None:
        super().__init__()
        self.project = PROJECTIONS.make(projection, student_width, teacher_width)
        self.normalize = NORMALIZATIONS.make(normalization, teacher_width)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (self.project(student.float()) - self.normalize(teacher)).abs().mean()


@AUGMENTATIONS.register("own_augmentation")
class OwnAugmentation(Augmentation):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return images * 0.9

    def observe(self, real_scores: Tensor) -> None:
        self.seen += len(real_scores)


@ADVERSARIES.register("own_adversary")
class OwnAdversary(Adversary):
    relative = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return (fake - real).mean() + 0.1 * (fake - real).square().mean()

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        assert real is not None
        return (real - fake).mean()


class OwnGenerator(Generator):
    def __init__(self, shape: Shape, classes: int, width: int) -> None:
        super().__init__()
        self.shape, self.z_dim, self.classes = shape, width, classes
        self.map = nn.Linear(width, math.prod(shape))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.map(z).tanh().unflatten(1, self.shape)


class OwnDiscriminator(Discriminator):
    def __init__(self, shape: Shape, classes: int, width: int) -> None:
        super().__init__()
        self.shape, self.classes, self.width = shape, classes, width
        self.body, self.head = nn.Linear(math.prod(shape), width), nn.Linear(width, 1)

    def forward(self, images: Tensor, labels: Tensor) -> DiscriminatorOutput:
        features = self.body(images.flatten(1)).relu()
        return DiscriminatorOutput(self.head(features).squeeze(1), features)


@NETWORKS.register("own_network")
class OwnNetwork(Architecture):
    def __init__(self, *, width: int = 8) -> None:
        self.width = width

    def generator(self, shape: Shape, classes: int) -> Generator:
        return OwnGenerator(shape, classes, self.width)

    def discriminator(self, shape: Shape, classes: int) -> Discriminator:
        return OwnDiscriminator(shape, classes, self.width)


@TEACHERS.register("own_teacher")
def own_teacher(settings: NetworkSettings, whole: bool = False) -> Built:
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 12))
    return Built(network, mean=HALF, std=HALF)


@SOURCES.register("own_data")
def own_data(settings: DataSettings, train: bool) -> ImageSet:
    source = torch.Generator().manual_seed(int(train))
    size = (40, *settings.shape)
    images = torch.randint(256, size, generator=source, dtype=torch.uint8)
    return ImageSet(images, torch.arange(40) % 2, ["a", "b"], [f"{i:02d}" for i in range(40)])


@METRICS.register("own_metric")
def own_metric(samples: Samples) -> dict[str, float]:
    return {"own_mean": float(samples.fake.mean() - samples.real.mean())}


@LOGGERS.register("own_logger")
class OwnLogger(Logger):
    def __init__(self, folder: Path, first: int) -> None:
        self.file = folder / "own_log.txt"

    def scalars(self, prefix: str, values: dict[str, Any], iteration: int) -> None:
        with open(self.file, "a") as file:
            file.write(f"{iteration} {prefix} {sorted(values)}\n")

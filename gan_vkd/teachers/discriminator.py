"""The discriminator of a run, frozen, as a teacher."""

from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn

from gan_vkd.data.settings import DataSettings
from gan_vkd.networks.interface import NETWORKS, Discriminator
from gan_vkd.networks.weights import fill
from gan_vkd.runtime.components import Choice, OneOf, choice
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.facts import Facts, checked
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings_file import load_as
from gan_vkd.teachers.interface import TEACHERS, Built, local_path
from gan_vkd.teachers.settings import NetworkSettings


class _TrainedDiscriminator(Section):
    """The part of a run's settings that its discriminator is built from."""

    model_config = ConfigDict(extra="ignore")
    data: DataSettings
    model: Annotated[Choice, OneOf(NETWORKS, "biggan")] = choice("biggan")

    @model_validator(mode="after")
    def _network_has_the_resolution(self) -> "_TrainedDiscriminator":
        NETWORKS.make(self.model.chosen).require(self.data.shape)
        return self


class DiscriminatorFacts(Facts):
    """The entries of a checkpoint that the discriminator is built from.

    channels: of its images; not in checkpoints of earlier versions.
    """

    channels: Literal[1, 3, 4] = 3
    classes: Annotated[int, Field(ge=0, le=1_000_000)]
    discriminator: dict[str, Any]


class _FeaturesOf(nn.Module):
    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor) -> Tensor:
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return self.discriminator(images, labels).features


@TEACHERS.register("discriminator")
def discriminator(settings: NetworkSettings, whole: bool = False) -> Built:
    path = local_path(settings)
    trained = load_as(_TrainedDiscriminator, path)
    state = RunFolder(path).latest_state()
    if state is None:
        raise VkdError(f"{path}: no checkpoint in this run folder (weights of discriminator)")
    gan = checked(DiscriminatorFacts, state.get("trained"), path)
    architecture = NETWORKS.make(trained.model.chosen)
    shape = trained.data.of_channels(gan["channels"]).shape
    network = architecture.discriminator(shape, gan["classes"])
    fill(network, gan["discriminator"], str(path))
    half = (0.5,) * shape.channels  # leaves images in [-1, 1] unchanged
    return Built(_FeaturesOf(network), mean=half, std=half)

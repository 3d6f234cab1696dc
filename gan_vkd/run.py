"""The run folder of a GAN: common files of all runs, sample grids and the exported generator."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gan_vkd.data.shape import Shape
from gan_vkd.game.settings import Settings, load_settings
from gan_vkd.networks.interface import NETWORKS, Generator
from gan_vkd.networks.standing import normalize_by_batch
from gan_vkd.networks.weights import require_finite
from gan_vkd.runtime.checkpoint import load_weights, save_weights
from gan_vkd.runtime.errors import VkdError, one_line
from gan_vkd.runtime.facts import Count, Facts, checked
from gan_vkd.runtime.folder import RunFolder


class GeneratorFacts(Facts):
    """The facts stored with a generator's weights.

    iteration: of the export. classes: number of classes, 0 if unconditional. shares: frequencies of
    the classes; a single number if unconditional. channels: of the images; not in files of earlier
    versions. names: of the classes; [] if they are not known.
    """

    iteration: Count
    classes: Annotated[int, Field(ge=0, le=1_000_000)]
    channels: Literal[1, 3, 4] = 3
    shares: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]
    names: Annotated[list[str], Field(default_factory=list)]

    @model_validator(mode="after")
    def _one_a_class(self) -> Self:
        if len(self.shares) != max(self.classes, 1) or sum(self.shares) == 0:
            raise ValueError(f"expected {max(self.classes, 1)} frequencies that are not all zero")
        if self.names and len(self.names) != self.classes:
            raise ValueError(f"expected {self.classes} names of classes")
        return self


class Run(RunFolder):
    """Reads and writes the files of a GAN's run folder.

    In addition to the files of every run: evaluations.jsonl, samples/*.png, scores/*.png; and for
    the best evaluation generator.safetensors, and neighbours.png, which shows samples with the five
    nearest training images of each. An imported run may have discriminator.safetensors; one that
    started from other weights has init_from.json (gan_vkd/transfer.py).
    """

    subfolders: ClassVar[Sequence[str]] = ("checkpoints", "samples", "scores")

    @property
    def generator_file(self) -> Path:
        return self.path / "generator.safetensors"

    @property
    def discriminator_file(self) -> Path:
        return self.path / "discriminator.safetensors"

    def settings(self) -> Settings:
        return load_settings(self.path)

    def export(self, generator: Generator, facts: dict[str, Any]) -> None:
        """Writes the generator's weights as plain safetensors, with its facts and settings."""
        facts = facts | {"classes": generator.classes, "channels": generator.shape.channels}
        settings = self.settings().dump()
        save_weights(self.generator_file, generator.state_dict(), facts, settings=settings)

    def load_generator(self, device: str) -> tuple[Generator, dict[str, Any]]:
        """Loads the exported generator in eval mode and its facts (iteration, classes, shares).

        Batch norm uses the exported statistics, or those of each batch if the settings say so.

        Raises:
            VkdError: there is no generator yet, or its file is damaged, does not fit the
                settings or is not finite.
        """
        file = self.generator_file
        if not file.is_file():
            raise VkdError(f"{file}: no generator yet; train first (vkd train CONFIG --out RUN)")
        generator, facts = read_generator(file, self.settings())
        return generator.to(device), facts


def read_generator(file: Path, settings: Settings) -> tuple[Generator, dict[str, Any]]:
    """Reads a file that `Run.export` wrote, as `Run.load_generator` does, onto the CPU."""
    state, facts = load_weights(file)
    facts = checked(GeneratorFacts, facts, file)
    shape = settings.data.of_channels(facts["channels"]).shape
    model, by_batch = settings.model.chosen, settings.evaluate.batch_norm == "batch"
    return build_generator(model, shape, facts["classes"], state, by_batch, file), facts


def build_generator(
    model: dict[str, Any],
    shape: Shape,
    classes: int,
    state: dict[str, Tensor],
    by_batch: bool,
    file: Path,
) -> Generator:
    """Builds a frozen generator of untrusted settings and weights, in eval mode.

    Args:
        model: name and options of the network.
        shape, classes: of its images.
        state: its weights.
        by_batch: whether batch norms use the statistics of each batch.
        file: of the weights, for messages.

    Raises:
        VkdError: weights of another network, or not finite.
    """
    try:
        with torch.device("meta"):  # allocates nothing, as untrusted settings may be huge
            generator = NETWORKS.make(model).generator(shape, classes)
        types = {name: value.dtype for name, value in generator.state_dict().items()}
        generator.load_state_dict(state, assign=True)
        for name, value in generator.state_dict().items():
            if value.dtype != types[name]:
                raise ValueError(f"{name} is of {value.dtype}, not {types[name]}")
    except (ValueError, TypeError, RuntimeError) as error:
        reason = one_line(error)
        raise VkdError(f"{file}: does not fit its settings ({reason})") from None
    require_finite(generator, file)
    normalize_by_batch(generator, by_batch)
    return generator.eval().requires_grad_(False)

"""Trained generators in the layout of huggingface_hub, with a model card of the run's facts."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny
from safetensors import safe_open
from torch import Tensor, nn

from gan_vkd.data.shape import Shape
from gan_vkd.evaluation.record import distances, evaluation, is_evaluation
from gan_vkd.game.settings import Settings
from gan_vkd.networks.interface import NETWORKS, Generator
from gan_vkd.networks.sampling import draw_samples
from gan_vkd.networks.weights import load_foreign
from gan_vkd.report.card import card, shortened
from gan_vkd.run import GeneratorFacts, Run, build_generator, read_generator
from gan_vkd.runtime.checkpoint import require_readable
from gan_vkd.runtime.components import Choice, OneOf
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.facts import Facts
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.hub import CONFIG, HubModel
from gan_vkd.runtime.settings_file import parsed_as

Side = Annotated[int, Field(ge=4, le=8192)]


class HubFacts(GeneratorFacts):
    """What config.json of a generator holds.

    model: the network and its options. height, width: of the images. batch_norm: as in
    `evaluate.batch_norm`; with "batch", a sample depends on those drawn with it.
    """

    model: SerializeAsAny[Annotated[Choice, OneOf(NETWORKS)]]
    height: Side
    width: Side
    batch_norm: Literal["standing", "running", "batch"] = "standing"


class PretrainedGenerator(HubModel, tags=["gan"]):
    """A trained generator. `facts` holds its classes, their frequencies and their names."""

    schema: ClassVar[type[Facts]] = HubFacts
    network: Generator

    @classmethod
    def of_run(cls, source: str | Path, device: str = "cpu") -> Self:
        """The best generator of a run.

        Args:
            source: a run folder, or its generator.safetensors alone.
            device: where the network is put.

        Raises:
            VkdError: no generator, or a file that is damaged or no run's.
        """
        file, text = user_path(source), ""
        if file.is_dir():
            run = Run(file)
            settings, (generator, facts) = run.settings(), run.load_generator("cpu")
            text = _card(run, settings, facts["iteration"])
        else:
            settings = _settings_in(file)
            generator, facts = read_generator(file, settings)
        facts |= {
            "model": settings.model.chosen,
            "height": generator.shape.height,
            "width": generator.shape.width,
            "batch_norm": settings.evaluate.batch_norm,
        }
        return cls(generator.to(device), facts, text)

    @classmethod
    def build(cls, facts: dict[str, Any], weights: Path) -> nn.Module:
        shape = Shape(facts["channels"], facts["height"], facts["width"])
        by_batch = facts["batch_norm"] == "batch"
        state = load_foreign(weights)
        return build_generator(facts["model"], shape, facts["classes"], state, by_batch, weights)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents (B, z_dim), labels (B,), 0 without classes -> images (B, C, H, W) in [-1, 1]."""
        return self.network(z, labels)

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """Draws uint8 images (count, C, H, W), of classes as frequent as in training."""
        return draw_samples(self.network, self.facts["shares"], count, min(count, 100), seed)


def load_generator(source: str, device: str = "cpu") -> PretrainedGenerator:
    """Loads a generator from a run, its generator.safetensors, a folder of `vkd export --hub`, or
    the Hub."""
    path = user_path(source)
    if path.is_file() or (path.is_dir() and not (path / CONFIG).exists()):
        return PretrainedGenerator.of_run(path, device)
    return PretrainedGenerator.from_pretrained(source, device)


def export_generator(run: Path, out: Path) -> str:
    """Writes a run's best generator as a folder for the Hub, and returns a line about it."""
    return PretrainedGenerator.of_run(run).export(out)


def _settings_in(file: Path) -> Settings:
    """The settings in the header of a run's generator.safetensors."""
    require_readable(file)
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get("settings")
    except Exception as error:  # of the format
        raise VkdError(f"{file}: not a safetensors file ({error})") from None
    if text is None:
        raise VkdError(f"{file}: no generator.safetensors of a run; give a run folder")
    return parsed_as(Settings, text, str(file))


def _card(run: Run, settings: Settings, iteration: int) -> str:
    """The model card: what was trained on what, and how it was measured."""
    file, found = run.path / "metrics.jsonl", {}
    for record in run.records("metrics"):
        if is_evaluation(record) and record.get("iteration") == iteration:
            found = evaluation(record, file)
    facts = {
        "data": shortened(settings.data.source),
        "training images": found.get("training_images", ""),
        "image size": str(settings.data.shape),
        "network": settings.model.name,
        "teacher": settings.distill.teacher.name if settings.distill else "none",
        "method": settings.distill.method.name if settings.distill else "none",
        "iterations": f"{iteration} of {settings.train.iterations}",
        "seed": settings.seed,
    }
    measured = distances(found) if found else {}
    if measured:
        facts["distances"] = (
            f"{found['num_samples']} samples to {found['reference_images']} images "
            f"({found['reference']})"
        )
    usage = (
        "from gan_vkd.hub import PretrainedGenerator\n\n"
        'generator = PretrainedGenerator.from_pretrained("OWNER/NAME")  # or this folder\n'
        "images = generator.draw(16, seed=0)  # uint8 (16, C, H, W)"
    )
    return card(
        title=f"{settings.model.name} on {facts['data']}, arm {settings.arm}",
        pipeline="unconditional-image-generation",
        facts=facts | {name: f"{value:.4g}" for name, value in measured.items()},
        usage=usage,
        command="vkd train settings.yaml --out RUN",
        settings=settings.model_dump(mode="json"),
    )

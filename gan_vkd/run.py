"""A GAN's run folder: what every run has, sample grids and the exported generator."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gan_vkd.checkpoint import digest, write_atomically
from gan_vkd.config import Settings, load_settings
from gan_vkd.errors import VkdError
from gan_vkd.folder import RunFolder
from gan_vkd.models.biggan import Generator


class Run(RunFolder):
    """The files of a GAN's run and nothing else.

    Beside those of every run: evaluations.jsonl, samples/*.png, scores/*.png; of the best by the
    run's measure: generator.safetensors, and neighbours.png, samples with the five training images
    nearest to each.
    """

    @property
    def generator_file(self) -> Path:
        return self.path / "generator.safetensors"

    def settings(self) -> Settings:
        return load_settings(self.path)

    def export(self, generator: Generator, facts: dict[str, Any]) -> None:
        """Writes the generator's weights as plain safetensors, with what is known of it."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in generator.state_dict().items()}
        text = json.dumps(facts | {"classes": generator.classes})
        metadata = {"facts": text, "settings": self.settings().dump()}
        metadata["sha256"] = digest(text, tensors)
        write_atomically(self.generator_file, lambda file: save_file(tensors, file, metadata))

    def load_generator(self, device: str) -> tuple[Generator, dict[str, Any]]:
        """The exported generator in eval mode, and its facts (iteration, classes, label shares).

        Raises:
            VkdError: no generator yet, or a damaged file.
        """
        file = self.generator_file
        if not file.is_file():
            raise VkdError(f"{file}: no generator yet; train first (vkd train CONFIG --out RUN)")
        settings = self.settings()
        try:
            with safe_open(file, "pt") as saved:
                metadata = saved.metadata() or {}
                state = {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118
            if metadata["sha256"] != digest(metadata["facts"], state):
                raise ValueError("its checksum does not match")
            facts = json.loads(metadata["facts"])
            with torch.device("meta"):  # takes no memory, whatever size a stranger's settings say
                generator = Generator(
                    settings.data.resolution,
                    settings.model.ch,
                    settings.model.z_dim,
                    facts["classes"],
                )
            generator.load_state_dict(state, assign=True)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise VkdError(f"{file}: damaged or not of this run's settings ({reason})") from None
        return generator.to(device).eval().requires_grad_(False), facts

"""Weights & Biases. A run continues without it if it fails."""

import secrets
from pathlib import Path
from typing import Any, ClassVar

import yaml
from torch import Tensor

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import read_text, subfolder, write_text
from gan_vkd.runtime.finite import finite
from gan_vkd.runtime.loggers.interface import FallibleLogger

MOST = 2**20  # bytes of a settings file, or of an identifier


class WeightsAndBiases(FallibleLogger):
    """Logs to a run of Weights & Biases, which a resumed run continues.

    Its identifier is kept in wandb/id. An iteration that a resumed run repeats is not logged again.
    Where it is sent, and whether at all, follows wandb's environment variables: WANDB_MODE=offline
    keeps everything in the run folder.

    Args:
        folder: the run folder; its settings become the configuration.
        project: name of the project.

    Raises:
        VkdError: wandb is not installed.
    """

    what: ClassVar[str] = "logging to Weights & Biases"

    def __init__(self, folder: Path, project: str) -> None:
        try:
            import wandb
        except ImportError:
            raise VkdError("train.logger = wandb: needs pip install wandb") from None
        super().__init__(folder)
        self._wandb = wandb
        with self._ending_on_failure():
            known = subfolder(folder, "wandb") / "id"
            if not known.exists():
                write_text(known, secrets.token_hex(4))
            self._run = wandb.init(
                project=project,
                name=folder.name,
                id=read_text(known, MOST).strip(),
                resume="allow",
                dir=folder,
                config=yaml.safe_load(read_text(folder / "settings.yaml", MOST)),
                settings=wandb.Settings(console="off"),
            )

    def scalars(self, prefix: str, values: dict[str, Any], iteration: int) -> None:
        with self._ending_on_failure():
            found = {f"{prefix}/{k}": v for k, v in values.items() if isinstance(v, float)}
            self._log(found, iteration)

    def image(self, name: str, picture: Tensor, iteration: int) -> None:
        with self._ending_on_failure():
            pixels = picture.permute(1, 2, 0).cpu().numpy()
            self._log({name: self._wandb.Image(pixels)}, iteration)

    def histograms(self, prefix: str, values: dict[str, Tensor], iteration: int) -> None:
        with self._ending_on_failure():
            kept = {f"{prefix}/{name}": x.cpu().numpy() for name, x in finite(values).items()}
            self._log({k: self._wandb.Histogram(x) for k, x in kept.items()}, iteration)

    def _log(self, values: dict[str, Any], iteration: int) -> None:
        if self.open:
            self._run.log(values, step=iteration)

    def close(self) -> None:
        with self._ending_on_failure():
            if self.open:
                self._run.finish()

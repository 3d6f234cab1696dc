"""Where a run stands: what a checkpoint holds, and how training goes on from one."""

import platform
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor
from tqdm import tqdm

import gan_vkd
from gan_vkd.runtime import ranks
from gan_vkd.runtime.checkpoint import digest, load_state
from gan_vkd.runtime.devices import has_bfloat16
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.meter import Meter
from gan_vkd.runtime.settings import RunSettings
from gan_vkd.runtime.settings_file import differences, load_as, parsed_as


class Trained(Protocol):
    """What is trained: networks, averages, optimisers, projections, statistics."""

    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...

    def shared(self) -> dict[str, Tensor]:
        """What all ranks must agree on."""
        ...

    def set_learning_rates(self, factor: float) -> None:
        """Those of the settings times a factor."""
        ...


Count = Annotated[int, Field(ge=0, lt=2**53)]


class Progress(BaseModel):
    """Where a run stands; saved with every checkpoint.

    best: the measure that was best so far; the less, the better.
    returns: how often it went back to a checkpoint from numbers that were not finite.
    total: iterations of the whole run.
    evaluated: the last iteration that was; a run may be killed before that of its checkpoint is.
    """

    iteration: Count = 0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    best: float = float("inf")
    best_iteration: Count = 0
    returns: Annotated[int, Field(ge=0, le=10_000)] = 0
    total: Count = 0
    evaluated: Count = 0


class RunState:
    """Where a run's training stands, in memory and in its folder.

    Args:
        run: the folder.
        trained: what a checkpoint holds.
        settings: of the run.
        device: that it trains on.
        data: what it is trained on: in words, and a digest of it.
    """

    def __init__(
        self,
        run: RunFolder,
        trained: Trained,
        settings: RunSettings,
        device: str,
        data: tuple[str, str],
    ) -> None:
        self.run, self.trained, self.settings, self.device = run, trained, settings, device
        self.data = list(data)
        self.progress, self.meter = Progress(), Meter()

    def begin(self, resume: bool, total: int) -> None:
        """From the newest checkpoint where one is to be resumed, or from the start; the folder then
        has the settings, and no records of a past that will be lived again."""
        if resume:
            self.restore()
        self.progress.total = total
        if ranks.is_first():
            self.run.write_settings(self.settings.dump())
            self.run.truncate("metrics", self.progress.iteration)
            self.run.record_end(None)

    def save(self) -> None:
        """Writes a checkpoint: all that is trained, and the random numbers' state.

        Raises:
            VkdError: it cannot be written, or the ranks do not agree on it.
        """
        train, progress = self.settings.train, self.progress
        on_host = torch.get_rng_state()
        on_device = torch.cuda.get_rng_state(self.device) if self._on_gpu else None
        self._require_step()
        meter = self.meter.state()
        if ranks.is_first():
            state = {
                "trained": self.trained.state(),
                "progress": progress.model_dump(),
                "meter": meter,
                "data": self.data,
                "random": {"cpu": on_host, "cuda": on_device},
                "settings": self.settings.dump(),
                "made": _circumstances(self.device),
            }
            best = progress.best_iteration
            self.run.save(progress.iteration, state, train.keep_checkpoints, best)

    @property
    def _on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def _require_step(self) -> None:
        """Refuses to keep what the ranks do not agree on."""
        if ranks.world() == 1:
            return
        shared = {k: v.detach().cpu() for k, v in self.trained.shared().items()}
        if len(set(ranks.all_parts(digest("", shared)))) > 1:
            raise VkdError(
                f"{self.run.path}: the ranks have drifted apart since the last checkpoint; use "
                "devices of one kind, and go on from there with --resume"
            )

    def restore(self, returns: int | None = None) -> None:
        """Puts everything back as the newest whole checkpoint has it, where there is one."""
        saved = ranks.from_first(lambda: self.run.latest_state(retire=True))
        if saved is None:
            return
        self._require_same_run(saved)
        try:
            self.trained.load_state(saved["trained"])
            told = saved["progress"]
            self.progress = Progress(**({"evaluated": told["iteration"]} | told))
            self.meter = Meter()
            self.meter.load_state(saved.get("meter", {}), self.device)
            random, made = saved["random"], dict(saved["made"])
            torch.set_rng_state(random["cpu"])
            if random["cuda"] is not None and self._on_gpu:
                torch.cuda.set_rng_state(random["cuda"], self.device)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = one_line(error)
            raise VkdError(
                f"{self.run.path}: its checkpoint is of another version of this project "
                f"({reason}); continue it with that version, or train anew elsewhere"
            ) from None
        if returns is not None:
            self.progress.returns = returns
        self.trained.set_learning_rates(self.settings.train.return_lr_factor**self.progress.returns)
        now = _circumstances(self.device)
        changed = [f"{k} {made.get(k)} is now {v}" for k, v in now.items() if made.get(k) != v]
        if changed:
            print(
                f"{self.run.path}: goes on, but not to the last bit as it would have: "
                f"{', '.join(changed)}"
            )

    def _require_same_run(self, saved: dict[str, Any]) -> None:
        """Refuses a checkpoint of other settings, which a folder without settings.yaml may have, or
        of other training data.

        Raises:
            SettingsError: what differs.
        """
        where = f"{self.run.path}: its checkpoint"
        settings = parsed_as(type(self.settings), saved.get("settings"), where)
        changed = _changed(settings, self.settings)
        if changed:
            raise SettingsError(f"{where} is of a run with other settings: {'; '.join(changed)}")
        data = saved.get("data")  # checkpoints of earlier versions have none
        if data not in (None, self.data) and self.settings.train.changed_data == "refuse":
            before = data[0] if isinstance(data, list) and data else "other data"
            raise SettingsError(
                f"{where} is of other training data ({before}, now {self.data[0]}, by their "
                "content); restore the data, or go on with train.changed_data=accept"
            )

    def go_back(self, fault: tuple[str, int], remedy: str) -> None:
        """To the last checkpoint with a smaller learning rate, or ends the run.

        Args:
            fault: the tensor that is not finite, and the iteration.
            remedy: what may help against it.
        """
        (name, bad), progress, train = fault, self.progress, self.settings.train
        kept = ranks.from_first(self.run.checkpoints)
        line = f"{self.run.path}: {name} is not finite at iteration {bad}"
        if progress.returns >= train.returns or not kept:
            good = (
                f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
            )
            tried = f" after {progress.returns} returns" if progress.returns else ""
            raise VkdError(
                f"{line}{tried}; {good}; try {remedy} in a new run, or let this one go on from "
                f"there with --resume train.returns={progress.returns + 3}"
            )
        self.restore(progress.returns + 1)
        back = self.progress
        back.seconds, back.total = progress.seconds, progress.total
        factor = train.return_lr_factor**back.returns
        tqdm.write(f"{line}; back to iteration {back.iteration}, learning rates times {factor:g}")
        if ranks.is_first():
            self.run.truncate("metrics", back.iteration)
            record = {"iteration": back.iteration, "seconds": round(back.seconds, 3)}
            self.run.append(
                "metrics", record | {"returns": back.returns, "from": bad, "tensor": name}
            )


def _circumstances(device: str) -> dict[str, Any]:
    """What the last bits of a run depend on beside its settings."""
    return {
        "ranks": ranks.world(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "precision": torch.get_float32_matmul_precision(),
        "bfloat16": has_bfloat16(device.partition(":")[0]),
        "gan_vkd": gan_vkd.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def is_finished(run: RunFolder, settings: RunSettings, resume: bool) -> bool:
    """Whether nothing is left to do; refuses a folder that is another run's.

    Raises:
        SettingsError: the folder holds a run already, or one with other settings.
    """
    if not (run.path / "settings.yaml").exists() and (resume or not run.checkpoints()):
        return False
    if not resume:
        raise SettingsError(
            f"{run.path}: holds a run already; continue it with --resume or choose another --out"
        )
    changed = _changed(load_as(type(settings), run.path), settings)
    if changed:
        raise SettingsError(f"{run.path}: is a run with other settings: {'; '.join(changed)}")
    kept, total = run.checkpoints(), settings.total
    if not kept or (total is not None and int(kept[-1].stem) < total):
        return False
    try:
        saved = load_state(kept[-1])["progress"]
        return bool(saved["iteration"] >= (saved["total"] if total is None else total))
    except (VkdError, KeyError, TypeError):
        return False


def _changed(earlier: RunSettings, now: RunSettings) -> list[str]:
    """The settings that differ from those of the run that is continued, and may not."""
    return [x for x in differences(earlier, now) if not x.startswith(now.may_change)]

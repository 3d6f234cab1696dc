"""Training state of a run: checkpoints, resuming from one, and rollbacks."""

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
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.facts import Count
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.meter import Meter
from gan_vkd.runtime.precision import has_bfloat16
from gan_vkd.runtime.settings import RunSettings
from gan_vkd.runtime.settings_file import differences, load_as, parsed_as


class Diverged(VkdError):
    """Values that are not finite, and no rollback left."""


class Trained(Protocol):
    """The state that is trained: networks, EMA, optimisers, projections, statistics.

    precision: of the networks on this device: float32, tf32 or bfloat16.
    """

    precision: str

    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...

    def shared(self) -> dict[str, Tensor]:
        """Returns the tensors that must be equal on all ranks."""
        ...

    def set_learning_rates(self, factor: float) -> None:
        """Sets the learning rates to those of the settings times a factor."""
        ...


class Progress(BaseModel):
    """Progress of a run, saved in every checkpoint.

    best: the best (lowest) loss of an evaluation so far.
    rollbacks: number of rollbacks so far, after values that were not finite.
    total: iterations of the whole run.
    evaluated: the last evaluated iteration; a run may be killed between a checkpoint and its
        evaluation.
    """

    iteration: Count = 0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    best: float = float("inf")
    best_iteration: Count = 0
    rollbacks: Annotated[int, Field(ge=0, le=10_000)] = 0
    total: Count = 0
    evaluated: Count = 0


class RunState:
    """The training state of a run, in memory and in its folder.

    Args:
        run: the run folder.
        trained: the state that checkpoints save.
        settings: of the run.
        device: that the run trains on.
        data: of the training data, a description and a digest.
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
        self.progress, self.meter = Progress(), Meter(device)

    def begin(self, resume: bool, total: int) -> None:
        """Starts from the newest checkpoint (`resume`) or from the beginning.

        Writes the settings to the folder and deletes records that the run will repeat.
        """
        if resume:
            self.restore()
        self.progress.total = total
        if ranks.is_first():
            self.run.write_settings(self.settings.dump())
            self.run.truncate("metrics", self.progress.iteration)
            self.run.record_end(None)

    def save(self) -> None:
        """Writes a checkpoint: trained state, progress and the states of the random generators.

        Raises:
            VkdError: it cannot be written, or the state differs between ranks.
        """
        train, progress = self.settings.train, self.progress
        on_host = torch.get_rng_state()
        on_device = torch.cuda.get_rng_state(self.device) if self._on_gpu else None
        self._require_equal_ranks()
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

    def _require_equal_ranks(self) -> None:
        """Raises VkdError if the shared state differs between ranks."""
        if ranks.world() == 1:
            return
        shared = {k: v.detach().cpu() for k, v in self.trained.shared().items()}
        if len(set(ranks.all_parts(digest("", shared)))) > 1:
            raise VkdError(
                f"{self.run.path}: the ranks have drifted apart since the last checkpoint; use "
                "devices of one kind, and continue from it with --resume"
            )

    def restore(self, rollbacks: int | None = None) -> None:
        """Restores the newest intact checkpoint, if there is one.

        Args:
            rollbacks: replaces the checkpoint's number of rollbacks.
        """
        saved = ranks.from_first(lambda: self.run.latest_state(retire=True))
        if saved is None:
            return
        self._require_same_run(saved)
        try:
            self.trained.load_state(saved["trained"])
            stored = dict(saved["progress"])
            if "returns" in stored:  # the name in earlier versions
                stored["rollbacks"] = stored.pop("returns")
            self.progress = Progress(**({"evaluated": stored["iteration"]} | stored))
            self.meter.load_state(saved.get("meter", {}))
            random, made = saved["random"], dict(saved["made"])
            torch.set_rng_state(random["cpu"])
            if random["cuda"] is not None and self._on_gpu:
                torch.cuda.set_rng_state(random["cuda"], self.device)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = one_line(error)
            raise VkdError(
                f"{self.run.path}: its checkpoint is of another version of this project "
                f"({reason}); continue it with that version, or train in a new folder"
            ) from None
        if rollbacks is not None:
            self.progress.rollbacks = rollbacks
        factor = self.settings.train.rollback_lr_factor**self.progress.rollbacks
        self.trained.set_learning_rates(factor)
        now = _circumstances(self.device)
        changed = [f"{k} {made.get(k)} is now {v}" for k, v in now.items() if made.get(k) != v]
        if changed:
            print(
                f"{self.run.path}: resumed, but results will not be identical to the last bit: "
                f"{', '.join(changed)}"
            )

    def _require_same_run(self, saved: dict[str, Any]) -> None:
        """Refuses a checkpoint of other settings, as in a folder without settings.yaml, or of other
        training data.

        Raises:
            SettingsError: names what differs.
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
                f"{where} is of other training data (then {before}, now {self.data[0]}, compared "
                "by content); restore the data, or continue with train.changed_data=accept"
            )

    def roll_back(self, fault: tuple[str, int], remedy: str) -> None:
        """Restores the last checkpoint with smaller learning rates.

        Args:
            fault: name of the tensor that is not finite, and the iteration.
            remedy: advice for the error message.

        Raises:
            VkdError: `train.rollbacks` is reached, or there is no checkpoint.
        """
        (name, bad), progress, train = fault, self.progress, self.settings.train
        kept = ranks.from_first(self.run.checkpoints)
        line = f"{self.run.path}: {name} is not finite at iteration {bad}"
        if progress.rollbacks >= train.rollbacks or not kept:
            tried, advice = progress.rollbacks, f"try {remedy} in a new run"
            if tried:
                line += f" after {tried} rollback{'s' if tried > 1 else ''}"
            if not kept:
                raise Diverged(f"{line}; there is no checkpoint yet; {advice}")
            raise Diverged(
                f"{line}; the last good checkpoint is {kept[-1]}; {advice}, or continue this one "
                f"from there with --resume train.rollbacks={tried + 3}"
            )
        self.restore(progress.rollbacks + 1)
        back = self.progress
        back.seconds, back.total = progress.seconds, progress.total
        factor = train.rollback_lr_factor**back.rollbacks
        where = f"rolled back to iteration {back.iteration}"
        tqdm.write(f"{line}; {where}, learning rates times {factor:g}")
        if ranks.is_first():
            self.run.truncate("metrics", back.iteration)
            record = {"iteration": back.iteration, "seconds": round(back.seconds, 3)}
            self.run.append(
                "metrics", record | {"rollbacks": back.rollbacks, "from": bad, "tensor": name}
            )


def _circumstances(device: str) -> dict[str, Any]:
    """Returns what bit-identical results depend on, apart from the settings."""
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
    """Returns whether the run in the folder, if any, has done all its iterations.

    Raises:
        SettingsError: the folder holds a run without `resume`, or one with other settings.
    """
    if not (run.path / "settings.yaml").exists() and (resume or not run.checkpoints()):
        return False
    if not resume:
        raise SettingsError(
            f"{run.path}: holds a run already; continue it with --resume or choose another --out"
        )
    changed = _changed(load_as(type(settings), run.path), settings)
    if changed:
        raise SettingsError(
            f"{run.path}: holds a run with other settings: {'; '.join(changed)}; give another --out"
        )
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

"""Where a run stands: what a checkpoint holds, and how training goes on from one."""

import platform
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import gan_vkd
from gan_vkd.runtime import ranks
from gan_vkd.runtime.checkpoint import digest, load_state
from gan_vkd.runtime.devices import has_bfloat16
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.settings import RunSettings
from gan_vkd.runtime.settings_file import differences, load_as


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


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint.

    best: the measure that was best so far; the less, the better.
    returns: how often it went back to a checkpoint from numbers that were not finite.
    total: iterations of the whole run.
    evaluated: the last iteration that was; a run may be killed before that of its checkpoint is.
    """

    iteration: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    best_iteration: int = 0
    returns: int = 0
    total: int = 0
    evaluated: int = 0


def begin(
    run: RunFolder, trained: Trained, settings: RunSettings, device: str, resume: bool, total: int
) -> Progress:
    """From the newest checkpoint where one is to be resumed, or from the start; the folder then
    has the settings, and no records of a past that will be lived again."""
    progress = (restore(run, trained, settings, device) if resume else None) or Progress()
    progress.total = total
    if ranks.is_first():
        run.write_settings(settings.dump())
        run.truncate("metrics", progress.iteration)
    return progress


def save(
    run: RunFolder, trained: Trained, progress: Progress, settings: RunSettings, device: str
) -> None:
    """Writes a checkpoint: all that is trained, and the random numbers' state.

    Raises:
        VkdError: it cannot be written, or the ranks do not agree on it.
    """
    on_host = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device.startswith("cuda") else None
    _require_step(run, trained)
    if ranks.is_first():
        state = {
            "trained": trained.state(),
            "progress": vars(progress),
            "random": {"cpu": on_host, "cuda": on_device},
            "settings": settings.dump(),
            "made": _circumstances(device),
        }
        run.save(
            progress.iteration, state, settings.train.keep_checkpoints, progress.best_iteration
        )


def _require_step(run: RunFolder, trained: Trained) -> None:
    """Refuses to keep what the ranks do not agree on."""
    if ranks.world() == 1:
        return
    shared = {k: v.detach().cpu() for k, v in trained.shared().items()}
    if len(set(ranks.all_parts(digest("", shared)))) > 1:
        raise VkdError(
            f"{run.path}: the ranks have drifted apart since the last checkpoint; use devices of "
            "one kind, and go on from there with --resume"
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


def restore(
    run: RunFolder,
    trained: Trained,
    settings: RunSettings,
    device: str,
    returns: int | None = None,
) -> Progress | None:
    """Puts everything back as the newest whole checkpoint has it; None where there is none."""
    saved = ranks.from_first(lambda: run.latest_state(retire=True))
    if saved is None:
        return None
    try:
        trained.load_state(saved["trained"])
        told = saved["progress"]
        progress = Progress(**({"evaluated": told["iteration"]} | told))
        random, made = saved["random"], saved["made"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = one_line(error)
        raise VkdError(
            f"{run.path}: its checkpoint is of another version of this project ({reason}); "
            "continue it with that version, or train anew elsewhere"
        ) from None
    if returns is not None:
        progress.returns = returns
    trained.set_learning_rates(settings.train.return_lr_factor**progress.returns)
    torch.set_rng_state(random["cpu"])
    if random["cuda"] is not None and device.startswith("cuda"):
        torch.cuda.set_rng_state(random["cuda"], device)
    now = _circumstances(device)
    changed = [f"{k} {made.get(k)} is now {v}" for k, v in now.items() if made.get(k) != v]
    if changed:
        print(
            f"{run.path}: goes on, but not to the last bit as it would have: {', '.join(changed)}"
        )
    return progress


def return_to_last(
    run: RunFolder,
    trained: Trained,
    settings: RunSettings,
    device: str,
    progress: Progress,
    fault: tuple[str, int],
    remedy: str,
) -> Progress:
    """Goes back to the last checkpoint with a smaller learning rate, or ends the run.

    Args:
        fault: the tensor that is not finite, and the iteration.
        remedy: what may help against it.
    """
    name, bad = fault
    kept = ranks.from_first(run.checkpoints)
    line = f"{run.path}: {name} is not finite at iteration {bad}"
    allowed = settings.train.returns
    if progress.returns >= allowed or not kept:
        good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        tried = f" after {progress.returns} returns" if progress.returns else ""
        raise VkdError(
            f"{line}{tried}; {good}; try {remedy} in a new run, or let this one go on from "
            f"there with --resume train.returns={progress.returns + 3}"
        )
    back = restore(run, trained, settings, device, progress.returns + 1)
    assert back is not None
    back.seconds, back.total = progress.seconds, progress.total
    factor = settings.train.return_lr_factor**back.returns
    tqdm.write(f"{line}; back to iteration {back.iteration}, learning rates times {factor:g}")
    if ranks.is_first():
        run.truncate("metrics", back.iteration)
        record = {"iteration": back.iteration, "seconds": round(back.seconds, 3)}
        run.append("metrics", record | {"returns": back.returns, "from": bad, "tensor": name})
    return back


def is_finished(run: RunFolder, settings: RunSettings, resume: bool) -> bool:
    """Whether nothing is left to do; refuses a folder that is another run's.

    Raises:
        SettingsError: the folder holds a run already, or one with other settings.
    """
    if not (run.path / "settings.yaml").exists():
        return False
    if not resume:
        raise SettingsError(
            f"{run.path}: holds a run already; continue it with --resume or choose another --out"
        )
    lines = differences(load_as(type(settings), run.path), settings)
    changed = [line for line in lines if not line.startswith(settings.may_change)]
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

"""Where a run stands: what a checkpoint holds, and how training goes on from one."""

import platform
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import gan_vkd
from gan_vkd import ranks
from gan_vkd.checkpoint import digest
from gan_vkd.config import Settings
from gan_vkd.errors import VkdError
from gan_vkd.finite import remedy
from gan_vkd.gan import GAN
from gan_vkd.run import Run


class Progress:
    """Where a run stands; saved with every checkpoint.

    returns: how often it went back to a checkpoint from numbers that were not finite.
    """

    def __init__(
        self,
        iteration: int = 0,
        seconds: float = 0.0,
        best: float = float("inf"),
        best_iteration: int = 0,
        returns: int = 0,
    ) -> None:
        self.iteration, self.seconds, self.returns = iteration, seconds, returns
        self.best, self.best_iteration = best, best_iteration


def save(run: Run, gan: GAN, progress: Progress, settings: Settings, device: str) -> None:
    """Writes a checkpoint: networks, averages, optimisers, projections, statistics, random numbers.

    Raises:
        VkdError: it cannot be written, or the ranks do not agree on it.
    """
    on_host = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device.startswith("cuda") else None
    state = gan.state()
    _require_step(run, state, [on_host, on_device])
    if ranks.is_first():
        state = {
            "gan": state,
            "progress": vars(progress),
            "random": {"cpu": on_host, "cuda": on_device},  # the same on every rank
            "settings": settings.dump(),
            "made": _circumstances(device),
        }
        run.save(
            progress.iteration, state, settings.train.keep_checkpoints, progress.best_iteration
        )


def _require_step(run: Run, state: dict[str, Any], random: list[Tensor | None]) -> None:
    """Refuses to keep what the ranks do not agree on: weights and random numbers."""
    if ranks.world() == 1:
        return
    weights = {k: v.detach().cpu() for k, v in state["generator"].items()}
    weights |= {f"D.{k}": v.detach().cpu() for k, v in state["discriminator"].items()}
    weights |= {f"random{i}": v for i, v in enumerate(random) if v is not None}
    if len(set(ranks.all_parts(digest("", weights)))) > 1:
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
        "gan_vkd": gan_vkd.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def restore(
    run: Run, gan: GAN, settings: Settings, device: str, returns: int | None = None
) -> Progress | None:
    """Puts everything back as the newest whole checkpoint has it; None where there is none."""
    saved = ranks.from_first(lambda: run.latest_state(retire=True))
    if saved is None:
        return None
    try:
        gan.load_state(saved["gan"])
        progress = Progress(**saved["progress"])
        random, made = saved["random"], saved["made"]
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise VkdError(
            f"{run.path}: its checkpoint is of another version of this project ({reason}); "
            "continue it with that version, or train anew elsewhere"
        ) from None
    if returns is not None:
        progress.returns = returns
    gan.set_learning_rates(settings.train.return_lr_factor**progress.returns)
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
    run: Run, gan: GAN, settings: Settings, device: str, progress: Progress, name: str, bad: int
) -> Progress:
    """Goes back to the last checkpoint with a smaller learning rate, or ends the run."""
    kept = ranks.from_first(run.checkpoints)
    fault = f"{run.path}: {name} is not finite at iteration {bad}"
    allowed = settings.train.returns
    if progress.returns >= allowed or not kept:
        good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        tried = f" after {progress.returns} returns" if progress.returns else ""
        raise VkdError(
            f"{fault}{tried}; {good}; try {remedy(name)} in a new run, or let this one go on from "
            f"there with --resume train.returns={progress.returns + 3}"
        )
    back = restore(run, gan, settings, device, progress.returns + 1)
    assert back is not None
    back.seconds = progress.seconds
    factor = settings.train.return_lr_factor**back.returns
    tqdm.write(f"{fault}; back to iteration {back.iteration}, learning rates times {factor:g}")
    if ranks.is_first():
        run.truncate("metrics", back.iteration)
        record = {"iteration": back.iteration, "seconds": round(back.seconds, 3)}
        run.append("metrics", record | {"returns": back.returns, "from": bad, "tensor": name})
    return back

"""What benchmarks/gpu.py measures, one function a part; each returns numbers by name."""

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import published_step
import torch
from gpu_setup import BEST, COMPILED, ROOT, VARIANTS, Setup
from laps import Compiled, Enough, Timed, pace, train
from timing import machine as device_and_torch
from torch.utils.flop_counter import FlopCounterMode

from gan_vkd.data.batches import Batches
from gan_vkd.runtime.loggers.interface import Logger
from gan_vkd.training import Game

Steps = dict[str, Callable[[], object]]


def milliseconds(call: Callable[[], object], setup: Setup) -> float:
    """Returns the median over five blocks of calls, after calls that warm up."""
    for seconds in (0.0, setup.seconds / 2):  # the first call takes what is done once
        warmed, calls = _block(call, setup.device, seconds=seconds)
    count = max(1, round(setup.seconds / 5 / (warmed / calls)))
    blocks = [_block(call, setup.device, count)[0] / count for _ in range(5)]
    return 1000 * statistics.median(blocks)


def _block(
    call: Callable[[], object], device: str, count: int | None = None, seconds: float = 0.0
) -> tuple[float, int]:
    """Calls `count` times, or once and on until the seconds are over; returns (seconds, calls)."""
    _finish(device)
    start, calls = time.perf_counter(), 0
    while calls < count if count else calls == 0 or time.perf_counter() - start < seconds:
        call()
        calls += 1
        if not count:
            _finish(device)
    _finish(device)
    return time.perf_counter() - start, calls


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _use_tf32(chosen: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = chosen


def machine(setup: Setup) -> dict[str, Any]:
    """The device, its rates of products of two square matrices, and of copying."""
    n, device = setup.matrix, setup.device
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    rates = {}
    for name in ("float32", "tf32", "bfloat16"):
        _use_tf32(name == "tf32")
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        x, y = a.to(dtype), b.to(dtype)
        rates[name] = 2e-9 * n**3 / milliseconds(lambda x=x, y=y: x @ y, setup)  # type: ignore
    _use_tf32(False)
    source = torch.randn(n * n * 4, device=device)
    target = torch.empty_like(source)
    copied = milliseconds(lambda: target.copy_(source), setup)
    return {
        "device": device_and_torch(),
        "software": f"Python {sys.version.split()[0]}, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}",
        "invented": setup.invented,
        "tflops": rates,
        "gigabytes": 2e-6 * source.nbytes / copied,
    }


def cuda_tests(seconds: float) -> dict[str, Any]:
    """What the tests marked `cuda` say: the end of pytest's output."""
    tests = ROOT / "tests"
    files = [str(p) for p in sorted(tests.rglob("test_*.py")) if "mark.cuda" in p.read_text()]
    if not files:
        return {"lines": ["no test is marked cuda"]}
    pytest = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", "-rfEs"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        said = subprocess.run(
            [*pytest, "--tb=line", "--continue-on-collection-errors", *files],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds,
        ).stdout  # fmt: skip
    except subprocess.TimeoutExpired as late:
        said = f"{(late.stdout or b'').decode()}\nstopped after {seconds:.0f} s"
    return {"lines": [line[:160] for line in said.splitlines() if line.strip()][-60:]}


def published(setup: Setup) -> dict[str, Any]:
    """The published trainer's steps (published_step.py), on the batches of a run."""
    _reset_peak(setup)
    theirs, batches, iteration = _theirs(setup)
    batch, labels = batches(0), batches.random_labels(setup.batch)
    steps: Steps = {
        "d_step": lambda: theirs.discriminator_step(batch, labels),
        "g_step": lambda: theirs.generator_step(labels, 0),
    }
    found = {"iteration": milliseconds(iteration, setup)} | _timed(steps, setup)
    return found | _peak(setup) | {"tflop": _operations(steps, d_steps=4)}


def _theirs(setup: Setup) -> tuple[published_step.Published, Batches, Callable[[], None]]:
    """The published trainer, its batches, and a function that runs its next iteration."""
    _use_tf32(False)
    batches, classes = setup.batches()
    theirs = published_step.build(setup.ch, 128, classes, setup.device)
    numbers = itertools.count()

    def iteration() -> None:
        theirs.iteration(next(numbers), batches, batches.random_labels, setup.batch)

    return theirs, batches, iteration


def ours(setup: Setup, arm: str, variant: str) -> dict[str, Any]:
    """Iterations of a run, with its records, and its two steps where they are not in a graph."""
    _reset_peak(setup)

    def then(game: Game) -> dict[str, Any]:
        found = _peak(setup)
        if variant in (BEST, COMPILED):
            return found
        batch, labels = game.batches(0), game.batches.random_labels(setup.batch)
        steps: Steps = {
            "d_step": lambda: game.trainer.discriminator_step(batch, labels, 0),
            "g_step": lambda: game.trainer.generator_step(labels, 0),
        }
        found |= _timed(steps, setup)
        counted = variant == next(iter(VARIANTS))
        return found | ({"tflop": _operations(steps, game.trainer.d_steps)} if counted else {})

    settings = setup.settings(arm, variant)
    game = Compiled if variant == COMPILED else Timed
    return pace(settings, setup.scratch, setup.period, setup.seconds, then, game)


def _timed(steps: Steps, setup: Setup) -> dict[str, Any]:
    return {name: milliseconds(step, setup) for name, step in steps.items()}


def _operations(steps: Steps, d_steps: int) -> float:
    """The operations of an iteration's convolutions and matrix products, in 1e12."""
    total = 0
    for name, times in (("d_step", d_steps), ("g_step", 1)):
        with FlopCounterMode(display=False) as counter:
            steps[name]()
        total += times * counter.get_total_flops()
    return total / 1e12


def _reset_peak(setup: Setup) -> None:
    if setup.device.startswith("cuda"):
        torch.cuda.init()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(setup: Setup) -> dict[str, Any]:
    """The largest memory allocated since `_reset_peak`, in GiB."""
    if not setup.device.startswith("cuda"):
        return {}
    return {"memory": torch.cuda.max_memory_allocated() / 2**30}


def steady(setup: Setup) -> dict[str, Any]:
    """Iterations of a run over a long stretch."""
    settings = setup.settings("cached features", BEST)
    return pace(settings, setup.scratch, setup.period, 30 * setup.seconds)


def evaluation(setup: Setup) -> dict[str, Any]:
    """Seconds of two evaluations of a run, without the judges' features of real images."""

    def then(game: Game) -> dict[str, Any]:
        took = []
        for _ in range(2):
            start = time.perf_counter()
            found = game.evaluate(1, Logger())
            took.append(time.perf_counter() - start)
        names = [judge["frechet_name"] for judge in found.record["judges"]]
        return {"evaluations": took, "judges": names, "samples": setup.samples}

    settings = setup.settings("no distillation", BEST, judged=True)
    return pace(settings, setup.scratch, 1, 0.0, then)


def kernels(setup: Setup, name: str) -> dict[str, Any]:
    """The ten kernels that take the most time of an iteration, and the time in all of them.

    name: "published", or a variant, which is measured with cached features.
    """
    cuda, rounds = setup.device.startswith("cuda"), min(3, setup.period)
    activity = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    profile = torch.profiler.profile(activities=[activity])
    if name == "published":
        _, _, call = _theirs(setup)
        wall = milliseconds(call, setup)
        with profile:
            _block(call, setup.device, rounds)
    else:
        settings = setup.settings("cached features", name)
        wall = pace(settings, setup.scratch, setup.period, setup.seconds)["iteration"]
        laps = itertools.count()

        def at_lap(game: Game, now: int) -> None:
            lap = next(laps)
            if lap == 2:  # after two that warm up
                profile.start()
            elif lap == 3:
                profile.stop()
                raise Enough

        train(settings, setup.scratch, rounds, at_lap)
    took = "self_device_time_total" if cuda else "self_cpu_time_total"
    rows = [
        {"kernel": e.key, "calls": e.count / rounds, "ms": getattr(e, took) / 1000 / rounds}
        for e in profile.key_averages()
        if getattr(e, took) > 0
    ]
    rows.sort(key=lambda row: row["ms"], reverse=True)
    total, launches = sum(row["ms"] for row in rows), sum(row["calls"] for row in rows)
    return {"wall": wall, "total": total, "launches": launches, "rows": rows[:10]}

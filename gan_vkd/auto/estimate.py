"""Time and memory of a run, measured by a few iterations of it on this machine."""

import gc
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from gan_vkd.data.image_set import ImageSet
from gan_vkd.evaluation.few import FEW
from gan_vkd.game.settings import Settings
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.sampling import draw_samples
from gan_vkd.networks.standing import as_sampled
from gan_vkd.report.pictures import class_grid
from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import save_state
from gan_vkd.runtime.dry_run import parameters, timed
from gan_vkd.runtime.errors import one_line_without_memory
from gan_vkd.runtime.graphs import EAGER, own_stream
from gan_vkd.runtime.memory import peak_memory
from gan_vkd.runtime.meter import Meter
from gan_vkd.training import Game

SECONDS = 4.0  # of measured iterations, at least one of each kind
CYCLE = 64  # iterations over which kinds are counted

IN_A_GRID = 100  # samples, at most, which are drawn at once
JUDGED = 16  # samples that judging is measured on
COPIES = 2  # of the training images on the host: the set, and its bytes for the fingerprint


@dataclass(frozen=True)
class Estimate:
    """iteration, evaluation, grid, checkpoint: seconds of one. reference: seconds of the judge on
    the training images, once. memory: peak in bytes, on the GPU or else of the process. file: bytes
    of a checkpoint. networks: parameters by name. total: seconds of the whole run."""

    iteration: float
    evaluation: float
    grid: float
    checkpoint: float
    reference: float
    memory: int
    file: int
    networks: dict[str, int]
    total: float


def estimate(settings: Settings, classes: list[str], count: int, device: str) -> Estimate:
    """Runs a few iterations on noise, evaluates a few samples and writes a checkpoint, elsewhere.

    The run itself is built, with its teacher, judge and CUDA graphs, so that its costs are measured
    and not modelled. Iterations with and without lazy terms (R1, path length) are measured.

    Args:
        settings: of the run.
        classes: names of its classes; [""] if it has none.
        count: number of training images.
        device: that it will train on.

    Raises:
        VkdError: the device has too little memory, or weights are missing.
    """
    try:
        return _estimate(settings, classes, count, device)
    finally:  # what was built for it, whose parts refer to each other
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def _estimate(settings: Settings, classes: list[str], count: int, device: str) -> Estimate:
    changes = {"reference": "train"}
    elsewhere = settings.model_copy(
        update={"cache": None, "evaluate": settings.evaluate.model_copy(update=changes)}
    )
    noise = _noise(settings, classes)
    heldout = None if settings.data.heldout is None else noise
    with (
        TemporaryDirectory() as folder,
        one_line_without_memory(settings.relief),
        own_stream(device),
    ):
        game = Game(elsewhere, Run(Path(folder)), device, (noise, heldout))
        iteration = _iteration(game, settings, Meter(device))
        sample, judge = _sample_and_judge(game)
        file = Path(folder, "checkpoint.safetensors")
        checkpoint = timed(lambda: save_state(file, game.trainer.state()), game.trainer.device)
        size = file.stat().st_size
        networks = _parameters(game.trainer)
    s, train = settings.evaluate, settings.train
    evaluation, grid = (sample + judge) * s.num_samples * bool(s.judges), sample * IN_A_GRID
    reference = judge * count
    evaluations, saves = (-(-train.iterations // e) for e in (s.every, train.checkpoint_every))
    early = train.sample_first or train.sample_every
    copies = 1 if device.startswith("cuda") else COPIES
    grids = -(-train.iterations // train.sample_every) + (train.sample_every // early).bit_length()
    return Estimate(
        iteration,
        evaluation,
        grid,
        checkpoint,
        reference,
        peak_memory(device) + copies * count * noise.images[0].numel(),
        size,
        networks,
        train.iterations * iteration
        + evaluations * evaluation
        + (saves + evaluations) * checkpoint
        + grids * grid
        + reference,
    )


def _parameters(trainer: Trainer) -> dict[str, int]:
    distillation = trainer.distillation
    return parameters(
        {
            "generator": trainer.generator,
            "discriminator": trainer.discriminator,
            "distillation": distillation,
            "teacher (frozen)": None if distillation is None else distillation.teacher,
        }
    )


def _noise(settings: Settings, classes: list[str]) -> ImageSet:
    """Images of random pixels, in the shape and classes of the training set."""
    number = max(FEW, settings.train.batch_size, len(classes))  # with fewer the run would warn
    source = torch.Generator().manual_seed(0)
    shape = (number, *settings.data.shape)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)
    labels = torch.arange(number) % len(classes)
    return ImageSet(images, labels, classes, [str(i) for i in range(number)])


def _iteration(game: Game, settings: Settings, meter: Meter) -> float:
    """Mean seconds of an iteration: of each kind an iteration is measured, in turns."""

    def step(done: int) -> None:
        meter.begin(done + 1)
        game.step(done, meter)

    device = game.trainer.device
    kinds = [_lazy_terms(settings, done) for done in range(CYCLE)]
    share = {kinds.index(kind): kinds.count(kind) / CYCLE for kind in set(kinds)}
    for done in share:  # not measured: the first ones allocate, or are captured
        for _ in range(EAGER + 2 if device.startswith("cuda") else 1):
            step(done)
    seconds: dict[int, list[float]] = {done: [] for done in share}
    begun = time.perf_counter()
    while not all(seconds.values()) or time.perf_counter() - begun < SECONDS:
        for done, taken in seconds.items():
            taken.append(timed(partial(step, done), device))
    return sum(share[done] * median(taken) for done, taken in seconds.items())


def _lazy_terms(settings: Settings, done: int) -> tuple[bool, ...]:
    """Which of the terms that are not in every update fall into the iteration after `done`."""
    regularize, steps = settings.regularize, settings.train.d_steps
    numbers = range(done * steps, (done + 1) * steps)
    r1 = regularize.r1_every if regularize.r1 else 1
    teacher = 1 if settings.distill is None else settings.distill.every
    length = regularize.path_length_every if regularize.path_length else 1
    of_updates = (any(number % every == 0 for number in numbers) for every in (r1, teacher))
    return (*of_updates, done % length == 0)


def _sample_and_judge(game: Game) -> tuple[float, float]:
    """Seconds of drawing a sample, and of all judges on it."""
    device = game.trainer.device
    generator = as_sampled(game.trainer.ema.generator, game.shares, game.settings.evaluate)
    grid = partial(class_grid, generator, game.shares)
    grid()  # not measured: the first one allocates
    drawing = timed(grid, device)
    images = draw_samples(generator, game.shares, JUDGED, JUDGED, 0)
    judges = [] if game.evaluator is None else game.evaluator.judges
    judging = sum(timed(partial(judge.features, images, JUDGED), device) for judge in judges)
    return drawing / IN_A_GRID, judging / JUDGED

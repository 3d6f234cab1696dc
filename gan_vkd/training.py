"""GAN training as a task of a run: construction, sample grids and evaluations."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from tqdm import tqdm

from gan_vkd.data.batches import Batches
from gan_vkd.data.image_set import ImageSet, why_no_classes
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.distill.folding import fold_batch_norms
from gan_vkd.evaluation.evaluator import Evaluator
from gan_vkd.evaluation.few import ADVICE, FEW, WARNINGS
from gan_vkd.evaluation.record import distances
from gan_vkd.game.build import build_trainer
from gan_vkd.game.explained import LEAST, ExplainedShare
from gan_vkd.game.scores import Scores, save_histogram, summary
from gan_vkd.game.settings import Settings
from gan_vkd.game.trainer import Trainer
from gan_vkd.game.updates import Updates
from gan_vkd.networks.interface import Generator
from gan_vkd.networks.standing import as_sampled
from gan_vkd.report.html import GANS
from gan_vkd.report.page.write import ProgressPage
from gan_vkd.report.pictures import class_grid, grid, save_png
from gan_vkd.run import Run
from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.files import subfolder
from gan_vkd.runtime.graphs import cuda_graph
from gan_vkd.runtime.loggers.interface import Logger
from gan_vkd.runtime.meter import Meter
from gan_vkd.runtime.progress import Progress
from gan_vkd.runtime.task import Evaluation, Hook, Status, Task
from gan_vkd.runtime.training import run_to_end
from gan_vkd.teachers.features import load_bank, load_views
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.teachers.text import class_embeddings
from gan_vkd.transfer import start_from


def train(
    settings: Settings, folder: Path, resume: bool = False, max_time: float | None = None
) -> None:
    """Trains to `train.iterations`; see `gan_vkd.runtime.training.run_to_end`."""
    run_to_end(Game, settings, Run(folder), resume, max_time)


class Game(Task):
    """A generator and a discriminator in training, with their data and evaluation.

    Args:
        settings, run, device: of the run.
        sets: training and held-out images in place of those that the settings name.
    """

    remedies: ClassVar[Sequence[tuple[str, str]]] = (
        (r"\.normalize\.transform$", "a larger distill.method.normalization.eps or .shrinkage"),
        (r"\.normalize\.", "another distill.teacher, whose features are finite"),
        ("gradient of generator|^the generated images$|path_length", "a smaller train.g_lr"),
        ("distill", "a smaller distill.weight or train.d_lr"),
        ("", "a smaller train.d_lr"),
    )

    def __init__(
        self,
        settings: Settings,
        run: Run,
        device: str,
        sets: tuple[ImageSet, ImageSet | None] | None = None,
    ) -> None:
        self.settings, self.run = settings, run
        self.total, self.evaluate_every = settings.train.iterations, settings.evaluate.every
        _require_parts_for_ranks(settings)
        with ranks.one_first_on_each_machine():
            data, heldout = sets or _load_sets(settings)
            settings = settings.of_channels(data.shape.channels)
            classes = _count_classes(settings, data)
            make_trainer = _with_teacher(settings, data, classes, device)
        self.fingerprint = data.fingerprint()
        ranks.require_alike(lambda: (settings.dump(), self.fingerprint), run.path)
        torch.manual_seed(settings.seed)
        try:
            self.trained = self.trainer = make_trainer()
        except ValueError as error:
            raise SettingsError(f"distill: {error}") from None
        if settings.init_from is not None and not ranks.from_first(run.checkpoints):
            start_from(settings, self.trainer, run)
        reference = {"heldout": heldout, "train": data}.get(settings.evaluate.reference)
        self.evaluator: Evaluator | None = None
        if settings.evaluate.judges:
            with ranks.one_first_on_each_machine():
                self.evaluator = Evaluator(
                    settings.evaluate, settings.data, device, reference, data, settings.cache_folder
                )
        kind = {1: "grey ", 3: "", 4: "transparent "}[data.shape.channels]
        self.data = f"{len(data)} {kind}images, {max(classes, 1)} classes"
        self.shares = (torch.bincount(data.labels) / len(data)).tolist() if classes else [1.0]
        self.names = data.classes if classes else []
        labelled = data if classes else ImageSet(data.images, data.labels * 0, [""], data.names)
        self.probe = Scores(labelled, heldout, settings.evaluate.seed)
        self.batches = Batches(
            labelled,
            settings.train.batch_size,
            flip=settings.data.flip,
            seed=settings.seed,
            device=device,
        )
        if self.batches.stream is not None:
            print(f"{run.path}: images are streamed, {data.images.nbytes / 2**30:.1f} GiB")
        capture = cuda_graph if device.startswith("cuda") and _graphs_are_used(settings) else None
        self.updates = Updates(self.trainer, self.batches, capture)
        self.explained: ExplainedShare | None = None
        if heldout is not None and ExplainedShare.is_defined(self.trainer) and ranks.is_first():
            self.explained = ExplainedShare(self.trainer, heldout, settings.seed)
        self.page = ProgressPage(GANS, run.path)
        self._warned = False
        self._said: set[str] = set()
        self._last = ""
        self._warn(["few pictures"] if len(data) < FEW else [])

    def step(self, done: int, meter: Meter) -> None:
        self.updates(done, meter)

    def notes(self, now: int) -> dict[str, float]:
        """Returns the explained share of the teacher; warns once if it is too low."""
        if self.explained is None:
            return {}
        share = self.explained()
        if not self._warned and share < LEAST and now >= self.total / 10:
            self._warned = True
            tqdm.write(
                f"iteration {now}: the teacher is not being learnt, only {share:.1%} of its "
                "features' variance on held-out images is explained; try distill.weight=auto, "
                "distill.student.scaling=batch or fewer distill.method.normalization.directions"
            )
        return {"explained_share": share}

    def hooks(self, logger: Logger) -> list[Hook]:
        train, sample = self.settings.train, partial(self._sample, logger)
        return [Hook(train.sample_every, sample, first=train.sample_first)]

    def _sample(self, logger: Logger, now: int) -> None:
        picture = class_grid(self._sampled(), self.shares)
        save_png(picture, subfolder(self.run.path, "samples") / f"{now:08d}.png")
        logger.image("samples", picture, now)

    def _sampled(self) -> Generator:
        """The EMA generator, prepared for sampling."""
        return as_sampled(self.trainer.ema.generator, self.shares, self.settings.evaluate)

    def evaluate(self, now: int, logger: Logger) -> Evaluation:
        """Evaluates the EMA generator and the scores of the discriminator.

        Without a judge the loss is undefined, so that the latest generator is exported.
        """
        generator = self._sampled()
        result = {} if self.evaluator is None else self.evaluator(generator, self.shares)
        measured = distances(result) if result else {}
        if ranks.is_first():
            scores = self.probe(self.trainer.discriminator, generator)
            result = result | summary(scores)
            logger.scalars("evaluate", measured, now)
            logger.histograms("scores", scores, now)
            save_histogram(scores, subfolder(self.run.path, "scores") / f"{now:08d}.png")
        export = partial(self._export, generator, now)
        if not measured:
            return Evaluation(math.inf, export, result)
        self._warn(result["warnings"])
        first = result["judges"][0]
        self._last = f"{first['frechet']:.3f}"
        text = f"iteration {now}: {first['frechet_name']} {self._last}"
        return Evaluation(first["frechet"], export, result, text)

    def show(self, status: Status) -> None:
        self.page(status)

    def _warn(self, found: list[str]) -> None:
        """Prints each warning (gan_vkd/evaluation/few.py) once."""
        for warning in found:
            if warning not in self._said and ranks.is_first():
                tqdm.write(f"{warning}: {WARNINGS[warning]}; {ADVICE}")
            self._said.add(warning)

    def _export(self, generator: Generator, now: int) -> None:
        facts = {"iteration": now, "shares": self.shares, "names": self.names}
        self.run.export(generator, facts)
        if self.evaluator is None:
            return
        neighbours = self.evaluator.neighbours(generator, self.shares)
        if neighbours is not None:
            save_png(grid(neighbours, 6), self.run.path / "neighbours.png")

    def best(self, progress: Progress) -> str:
        if self.evaluator is None:
            return ""
        name = self.evaluator.extractor.frechet_name
        last = f", last {self._last}" if self._last else ""
        return f"{name} {progress.best:.3f} at iteration {progress.best_iteration}{last}"


def _load_sets(settings: Settings) -> tuple[ImageSet, ImageSet | None]:
    """The training and the held-out set, which has as many channels."""
    cache = settings.cache_folder
    data = load_training_set(settings.data, cache)
    return data, load_heldout_set(settings.data.of_channels(data.shape.channels), cache)


def _with_teacher(
    settings: Settings, data: ImageSet, classes: int, device: str
) -> Callable[[], Trainer]:
    """Loads the teacher and returns a function that builds the trainer.

    The function initialises the networks from torch's global generator, and raises ValueError for
    layers or widths that do not fit.
    """
    teacher, text, bank, views = None, None, None, None
    if settings.distill is not None:
        distill, cache = settings.distill, settings.cache_folder
        layers = [pair.teacher or distill.teacher for pair in distill.pairs]
        resolution, background = settings.data.resolution, settings.data.backdrop
        teacher = load_teacher(distill.teacher, resolution, device, layers, background)
        fold_batch_norms(teacher)
        if distill.takes_text:
            text = class_embeddings(distill.text, teacher, data.classes)
        bank = partial(load_bank, teacher, data, settings.data.flip, cache)
        views = partial(load_views, teacher, data, settings.policy, cache)
    return partial(build_trainer, settings, classes, device, teacher, bank, text, views)


def _graphs_are_used(settings: Settings) -> bool:
    if not settings.train.graph:
        return False
    if ranks.world() > 1:
        print("CUDA graphs are not used with several ranks, which exchange tensors in each step")
    return ranks.world() == 1


def _require_parts_for_ranks(settings: Settings) -> None:
    size, world = settings.train.batch_size, ranks.world()
    parts = settings.evaluate.num_samples // settings.evaluate.inseparable
    if parts < world:
        unit = "samples" if settings.evaluate.inseparable == 1 else "batches of samples"
        raise SettingsError(f"evaluate.num_samples: fewer {unit} than the {world} ranks")
    if size % world:
        raise SettingsError(f"train.batch_size = {size}: {world} ranks cannot share it evenly")


def _count_classes(settings: Settings, data: ImageSet) -> int:
    conditional = settings.data.conditional
    if conditional is None:
        conditional = len(data.classes) > 1
    if conditional and len(data.classes) < 2:
        raise SettingsError(
            f"data.conditional = true needs two class folders, but {settings.data.source} "
            f"{why_no_classes(data.names)}"
        )
    return len(data.classes) if conditional else 0

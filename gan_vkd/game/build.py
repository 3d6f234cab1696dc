"""Builds the trainer of a run from its settings."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gan_vkd.data.augment import Augmentations
from gan_vkd.distill import METHODS, Layer, Reader, StudentFeature, Teacher
from gan_vkd.distill.head import Head
from gan_vkd.game.adversary import ADVERSARIES
from gan_vkd.game.distillation import Distillation, Pair
from gan_vkd.game.ema import EMA, HalfLife
from gan_vkd.game.generator_regularization import GeneratorRegularizer, PathLength
from gan_vkd.game.gradient_penalties import R1, SharedPenalty
from gan_vkd.game.regularization import Consistency, LeCam, Regularizer
from gan_vkd.game.settings import DistillSettings, Settings
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.interface import NETWORKS, Discriminator, Generator, in_eval_mode
from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.schedule import as_schedule
from gan_vkd.teachers.features import FeatureBank
from gan_vkd.teachers.frozen import as_layer


def build_trainer(
    settings: Settings,
    classes: int,
    device: str,
    teacher: Teacher | None = None,
    load_bank: Callable[[], FeatureBank] | None = None,
    text: Tensor | None = None,
    load_views: Callable[[], tuple[Tensor, Tensor]] | None = None,
) -> Trainer:
    """Builds the trainer that the settings describe.

    Args:
        settings: of the run.
        classes: number of classes, 0 for unconditional networks.
        device: device of all modules.
        teacher, text: of the distillation; text (C, dt) are the class embeddings.
        load_bank: returns the teacher's features of the clean real images; called only if the
            settings need them, after everything else has been checked.
        load_views: returns the teacher's features of two augmented views of each real image; called
            under the same conditions.

    Raises:
        ValueError: a layer, width or batch size does not fit the method, or no direction agrees
            between the views.
    """
    settings = settings.of_length()
    train, shape = settings.train, settings.data.shape
    network = NETWORKS.make(settings.model.chosen)
    generator = network.generator(shape, classes).to(device)
    discriminator = network.discriminator(shape, classes).to(device)
    _freeze(discriminator, train.freeze_d)
    of_this_rank = train.batch_size // ranks.world()
    discriminator.group = _largest_divisor(of_this_rank, discriminator.group)
    distillation = None
    if settings.distill is not None:
        assert teacher is not None
        distillation = build_distillation(settings.distill, teacher, discriminator, text).to(device)
        _require_batch(settings, distillation)
        if load_bank is not None and settings.distill.needs_bank:
            distillation.bank = load_bank()
            if settings.distill.fits_bank:
                distillation.fit(distillation.bank)
        if load_views is not None and settings.distill.needs_views:
            distillation.fit_views(*load_views())
    return Trainer(
        generator,
        discriminator,
        ADVERSARIES.make(settings.adversary.chosen),
        Augmentations(settings.policy).to(device),
        distillation,
        [term.to(device) for term in _regularizers(settings)],
        ema=_average(settings, generator),
        g_lr=train.g_lr,
        d_lr=train.d_lr,
        betas=train.betas,
        d_steps=train.d_steps,
        precision=train.precision,
    )


def _freeze(discriminator: Discriminator, count: int) -> None:
    """Freezes the layers nearest to the image (FreezeD: Mo, Cho and Shin, 2020).

    In eval mode the vectors of their spectral norms stay as well.

    Raises:
        SettingsError: the network has fewer such layers, or does not name them.
    """
    if not count:
        return
    where = f"train.freeze_d = {count}: the discriminator"
    try:
        layers = discriminator.lower_layers()
    except ValueError as error:
        raise SettingsError(f"{where} {error}") from None
    if count > len(layers):
        raise SettingsError(f"{where} has {len(layers)} layers that can be frozen")
    for layer in layers[:count]:
        layer.eval().requires_grad_(False)


def _average(settings: Settings, generator: Generator) -> EMA:
    """The EMA; one that starts from other weights (`init_from`) is not a copy at first."""
    train, begun = settings.train, settings.init_from is not None
    decay, start = train.ema_decay, 0 if begun else train.ema_start
    if isinstance(decay, HalfLife):
        half_life = decay.model_copy(update={"ramp_up": None}) if begun else decay
        return EMA(generator, half_life.of_batch(train.batch_size), start)
    return EMA(generator, as_schedule(decay), start)


def _largest_divisor(number: int, most: int) -> int:
    return max(d for d in range(1, min(number, most) + 1) if number % d == 0)


def build_distillation(
    settings: DistillSettings, teacher: Teacher, discriminator: Discriminator, text: Tensor | None
) -> Distillation:
    """Builds the projections, heads and losses between a teacher and a discriminator.

    Raises:
        ValueError: a layer or width does not fit the method.
    """
    layers = [None if pair.at_the_score else as_layer(pair.student, "") for pair in settings.pairs]
    widths = _widths(discriminator, [layer for layer in layers if layer is not None])
    students = [
        (discriminator.width, discriminator.positions) if layer is None else (next(widths), 1)
        for layer in layers
    ]
    options = settings.student.model_dump()
    features = [
        StudentFeature(width, teacher_width, positions=positions, **options)
        for (width, positions), teacher_width in zip(students, teacher.widths, strict=True)
    ]
    texts = [text] if settings.takes_text else []
    pairs = [
        Pair(
            METHODS.make(settings.method.chosen, feature.width, teacher_width, *texts),
            feature,
            layer,
            pair.weight,
        )
        for feature, teacher_width, layer, pair in zip(
            features, teacher.widths, layers, settings.pairs, strict=True
        )
    ]
    head = None  # for the aggregated term, if the student feature has no head
    index = settings.score_pair
    if settings.aggregated and index is not None and features[index].head is None:
        head = Head(discriminator.width, teacher.widths[index])
    return Distillation(
        teacher,
        pairs,
        weight=settings.weight,
        gradient_ratio=settings.gradient_ratio,
        images=settings.images,
        view=settings.view,
        aggregated=settings.aggregated,
        every=settings.every,
        head=head,
    )


@torch.no_grad()
def _widths(discriminator: Discriminator, layers: list[Layer]) -> Iterator[int]:
    """Widths of the layers' features, measured by a forward of one image."""
    device = next(discriminator.parameters()).device
    image = torch.zeros(1, *discriminator.shape, device=device)
    with Reader(discriminator, layers) as reader, in_eval_mode(discriminator):
        discriminator(image, torch.zeros(1, dtype=torch.int64, device=device))
    return iter([features.shape[1] for features in reader.take()])


def _require_batch(settings: Settings, distillation: Distillation) -> None:
    distill, batch = settings.distill, settings.train.batch_size
    assert distill is not None
    least, given = distillation.least_batch, 2 * batch if distill.images == "both" else batch
    if given < least:
        setting = f"method = {distill.method.name}"
        if distillation.method.least_batch < least:
            setting = f"student.scaling = {distill.student.scaling}"
        raise ValueError(
            f"{setting} relates at least {least} images to each other, but train.batch_size = "
            f"{batch} gives it {given}: set a larger train.batch_size"
        )


def _regularizers(settings: Settings) -> list[Regularizer | GeneratorRegularizer]:
    shape, chosen = settings.data.shape, settings.regularize
    terms = list[Regularizer | GeneratorRegularizer]()
    if chosen.lecam:
        start = chosen.lecam_start * settings.train.d_steps
        terms.append(LeCam(start=start, weight=chosen.lecam))
    if chosen.consistency:
        flip = settings.data.flip
        terms.append(Consistency(chosen.consistency, chosen.consistency_images, flip))
    if chosen.r1:
        weight = chosen.r1
        if weight == "auto":
            weight = 0.0002 * shape.height * shape.width / settings.train.batch_size
        r1 = R1(weight, chosen.r1_every)
        terms.append(SharedPenalty("real", weight, chosen.r1_every) if chosen.r2 else r1)
    if chosen.r2:
        terms.append(SharedPenalty("fake", chosen.r2, chosen.r1_every))
    if chosen.path_length:
        terms.append(PathLength(chosen.path_length, chosen.path_length_every))
    return terms

import pytest
import torch
import torch.nn.functional as F

from gan_vkd.data.batches import Batch
from gan_vkd.data.image_set import to_network
from gan_vkd.data.sets import load_training_set
from gan_vkd.distill import METHODS
from gan_vkd.game.build import build_trainer
from gan_vkd.game.trainer import Trainer
from gan_vkd.teachers.features import FeatureBank, load_bank, load_views
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.teachers.text import class_embeddings
from tests.conftest import MakeSettings

NORM = "distill.method.normalization"


def build(make: MakeSettings, *keys: str, arm: str = "whitening", device: str = "cpu") -> Trainer:
    settings = make(*keys, arm=arm)
    teacher = load_teacher(settings.distill.teacher, 32, device) if settings.distill else None
    torch.manual_seed(0)
    return build_trainer(settings, 10, device, teacher)


def batch(size: int = 8) -> Batch:
    source = torch.Generator().manual_seed(0)
    images = torch.rand(size, 3, 32, 32, generator=source) * 2 - 1
    labels = torch.randint(10, (size,), generator=source)
    return Batch(images, labels, torch.arange(size), torch.zeros(size, dtype=torch.bool))


def copy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    now = module.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, now[name])}


def test_each_step_trains_its_own_networks(small: MakeSettings) -> None:
    gan = build(small)
    assert gan.distillation is not None
    generator, discriminator = copy(gan.generator), copy(gan.discriminator)
    distillation, teacher = copy(gan.distillation), copy(gan.distillation._teacher[0])
    gan.discriminator_step(batch(), batch().labels, 0)
    weights = {name for name, _ in gan.discriminator.named_parameters()}
    # fake and real scores share the last bias: its hinge gradients cancel at initialisation
    assert changed(discriminator, gan.discriminator) >= weights - {"linear.bias"}
    assert changed(distillation, gan.distillation)
    assert changed(generator, gan.generator) <= {n for n, _ in gan.generator.named_buffers()}

    discriminator, distillation = copy(gan.discriminator), copy(gan.distillation)
    gan.generator_step(batch().labels, iteration=0)
    assert changed(generator, gan.generator) >= {n for n, _ in gan.generator.named_parameters()}
    assert not changed(discriminator, gan.discriminator) & weights
    assert not changed(distillation, gan.distillation)
    assert not changed(teacher, gan.distillation._teacher[0])
    assert all(p.requires_grad for p in gan.discriminator.parameters())


def test_the_ema_generator_is_a_copy_before_its_start(small: MakeSettings) -> None:
    gan = build(small, "train.ema_decay=0.75", "train.ema_start=2")
    labels = batch().labels
    for iteration in (0, 1):
        gan.generator_step(labels, iteration)
        assert not changed(copy(gan.generator), gan.ema.generator)
    before = copy(gan.ema.generator)
    gan.generator_step(labels, 2)
    for name, value in gan.ema.generator.state_dict().items():
        expected = 0.75 * before[name] + 0.25 * gan.generator.state_dict()[name]
        torch.testing.assert_close(value, expected)


def test_the_distillation_loss_matches_the_published_formula(small: MakeSettings) -> None:
    """mean (Zs P^T - layernorm(Zt))^2 over fake and real, on the augmented images."""
    gan = build(small, arm="layernorm")
    assert gan.distillation is not None
    images = batch().images
    features = torch.randn(8, 8)
    teacher = gan.distillation._teacher[0]
    p = gan.distillation.method.methods[0].project.matrix()
    total = 0.0
    for z, image in zip(features, images, strict=True):
        target = teacher(image[None])[0]
        target = (target - target.mean()) / (target.var(unbiased=False) + 1e-5).sqrt()
        total += float((p @ z - target).detach().square().mean()) / len(images)
    loss = gan.distillation([features], batch(4), images, clean=torch.zeros_like(images))[
        "distill_loss"
    ]
    torch.testing.assert_close(float(loss.detach()), total, rtol=1e-4, atol=0)


def test_images_and_view_select_the_distilled_images(small: MakeSettings) -> None:
    images = batch().images
    for part, rows in {"both": range(8), "fake": range(4), "real": range(4, 8)}.items():
        for view in ("augmented", "clean"):
            gan = build(small, f"distill.images={part}", f"distill.view={view}", arm="layernorm")
            assert gan.distillation is not None
            features = torch.randn(8, 8, requires_grad=True)
            other = torch.zeros_like(images)
            pair = (images, other) if view == "augmented" else (other, images)
            loss = gan.distillation([features], batch(4), *pair)["distill_loss"]
            loss.backward()
            assert features.grad is not None
            reached = features.grad.abs().sum(1).nonzero().squeeze(1).tolist()
            assert reached == list(rows)
            target = F.layer_norm(gan.distillation._teacher[0](images[list(rows)]), (64,))
            projected = gan.distillation.method.methods[0].project(features[list(rows)])
            torch.testing.assert_close(loss, F.mse_loss(projected, target))


def test_the_discriminator_step_has_the_gradient_of_the_hinge_loss(small: MakeSettings) -> None:
    gan = build(small, arm="none")
    images, labels = batch().images, batch().labels
    torch.manual_seed(5)
    gan.discriminator_step(batch(), labels, 0)
    taken = {name: p.grad.clone() for name, p in gan.discriminator.named_parameters()}

    again = build(small, arm="none")
    torch.manual_seed(5)
    with torch.no_grad():
        fake = again.generator(torch.randn(8, again.generator.z_dim), labels)
    seen = torch.cat([again.augment(side) for side in (fake, images)])
    scores = again.score(seen, torch.cat([labels, labels]))
    loss = sum((1 + s).clamp_min(0) / 8 for s in scores[:8])
    loss = loss + sum((1 - s).clamp_min(0) / 8 for s in scores[8:])
    loss.backward()
    for name, p in again.discriminator.named_parameters():
        torch.testing.assert_close(p.grad, taken[name], rtol=1e-4, atol=1e-6)


def test_the_generator_step_has_the_gradient_of_the_hinge_loss(small: MakeSettings) -> None:
    gan, again = (build(small, arm="none") for _ in range(2))
    labels = batch().labels
    torch.manual_seed(5)
    gan.generator_step(labels, 0)

    torch.manual_seed(5)
    fake = again.generator(torch.randn(8, again.generator.z_dim), labels)
    scores = again.score(again.augment(fake), labels)
    (-sum(scores) / 8).backward()
    taken = dict(gan.generator.named_parameters())
    for name, p in again.generator.named_parameters():
        torch.testing.assert_close(taken[name].grad, p.grad, rtol=1e-4, atol=1e-6)


def test_each_optimiser_has_its_settings(small: MakeSettings) -> None:
    gan = build(small, "train.g_lr=1e-3", "train.d_lr=2e-3", "train.betas=[0.5, 0.9]")
    assert gan.distillation is not None
    rates = {"generator": (gan.g_optimizer, 1e-3), "discriminator": (gan.d_optimizer, 2e-3)}
    for name, (optimizer, rate) in rates.items():
        for group in optimizer.param_groups:
            assert (group["lr"], tuple(group["betas"])) == (rate, (0.5, 0.9)), name
    learnt = {p for group in gan.d_optimizer.param_groups for p in group["params"]}
    assert learnt == {*gan.discriminator.parameters(), *gan.distillation.parameters()}


def test_the_state_is_saved_and_restored(small: MakeSettings) -> None:
    gan, other = build(small), build(small, "seed=1")
    labels = batch().labels
    gan.discriminator_step(batch(), labels, 0)
    gan.generator_step(labels, 0)
    other.load_state(gan.state())
    torch.manual_seed(7)
    expected = gan.discriminator_step(batch(), labels, 0)
    torch.manual_seed(7)
    found = other.discriminator_step(batch(), labels, 0)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_the_same_discriminator(method: str, small: MakeSettings) -> None:
    settings = small(f"distill.method={method}")
    assert settings.distill is not None
    teacher = load_teacher(settings.distill.teacher, 32, "cpu")
    torch.manual_seed(0)
    text = class_embeddings(None, teacher, []) if settings.distill.takes_text else None
    gan, plain = build_trainer(settings, 10, "cpu", teacher, text=text), build(small, arm="none")
    shapes = [[p.shape for p in g.discriminator.parameters()] for g in (gan, plain)]
    assert shapes[0] == shapes[1]
    assert gan.distillation is not None
    before, learnt = copy(gan.discriminator), copy(gan.distillation)
    losses = gan.discriminator_step(batch(), batch().labels, 0)
    assert all(value.isfinite() for value in losses.values())
    assert losses["distill_loss"] > 0
    assert changed(before, gan.discriminator)
    assert bool(changed(learnt, gan.distillation)) == bool(learnt)


def test_features_of_clean_real_images_are_looked_up(small: MakeSettings) -> None:
    """The losses are the same with and without a bank; the teacher gets fake images at most."""
    for part, shown in {"both": 8, "real": 0, "fake": 8}.items():
        overrides = ("distill.view=clean", f"distill.images={part}")
        found = []
        for banked in (False, True):
            gan = build(small, *overrides)
            assert gan.distillation is not None
            teacher = gan.distillation._teacher[0]
            if banked and part != "fake":
                known = torch.cat([teacher(batch().images), teacher(batch().images.flip(3))])
                gan.distillation.bank = FeatureBank(known, 8)
            seen: list[int] = []
            teacher.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(len(args[0])))
            torch.manual_seed(3)
            losses = [gan.discriminator_step(batch(), batch().labels, 0) for _ in range(3)]
            found.append(torch.stack([x for step in losses for x in step.values()]))
            if banked:
                assert sum(seen) == 3 * shown
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_statistics_of_the_training_set_do_not_change(small: MakeSettings) -> None:
    settings = small(
        "distill.method.normalization.statistics=training_set",
        "distill.method.normalization.shrinkage=0",
    )
    assert settings.distill is not None
    data = load_training_set(settings.data)
    teacher = load_teacher(settings.distill.teacher, 32, "cpu")
    gan = build_trainer(settings, 10, "cpu", teacher, lambda: load_bank(teacher, data, False, None))
    assert gan.distillation is not None
    normalize = gan.distillation.method.methods[0].normalize
    features = teacher(to_network(data.images)).double()
    torch.testing.assert_close(normalize.mean, features.mean(0))
    torch.testing.assert_close(normalize.second[0], features.T.cov(correction=0))
    before = copy(normalize)
    gan.discriminator_step(batch(), batch().labels, 0)
    assert not changed(before, normalize)


def test_batch_statistics_whiten_each_batch(
    small: MakeSettings,
) -> None:
    gan = build(
        small,
        "distill.method.normalization.statistics=batch",
        "distill.method.normalization.shrinkage=0",
    )
    assert gan.distillation is not None
    normalize = gan.distillation.method.methods[0].normalize
    for scale in (1.0, 7.0):
        white = normalize(scale * torch.randn(200, 64).exp())
        torch.testing.assert_close(white.T.cov(correction=0), torch.eye(64), rtol=0, atol=1e-3)


def test_directions_by_agreement_use_two_augmented_views(small: MakeSettings) -> None:
    settings = small(f"{NORM}.statistics=training_set", f"{NORM}.directions=agreement")
    assert settings.distill is not None
    assert settings.distill.needs_views
    assert not settings.distill.needs_bank
    data = load_training_set(settings.data)
    teacher = load_teacher(settings.distill.teacher, 32, "cpu")
    views = load_views(teacher, data, settings.augment, None)
    never = lambda: pytest.fail("the bank was computed")  # noqa: E731
    gan = build_trainer(settings, 10, "cpu", teacher, never, load_views=lambda: views)
    assert gan.distillation is not None
    normalize = gan.distillation.method.methods[0].normalize
    torch.testing.assert_close(normalize.mean, torch.cat(views).double().mean(0))
    assert 0 < int(torch.linalg.matrix_rank(normalize.transform[0])) < 64
    before = copy(normalize)
    gan.discriminator_step(batch(), batch().labels, 0)
    assert not changed(before, normalize)


@pytest.mark.parametrize("part", ["both", "real", "fake"])
@pytest.mark.parametrize("view", ["augmented", "clean"])
@pytest.mark.parametrize("statistics", ["running", "batch", "training_set"])
def test_all_combinations_of_images_view_and_statistics_train(
    part: str, view: str, statistics: str, small: MakeSettings
) -> None:
    settings = small(
        f"distill.images={part}",
        f"distill.view={view}",
        f"{NORM}.statistics={statistics}",
    )
    assert settings.distill is not None
    data = load_training_set(settings.data)
    teacher = load_teacher(settings.distill.teacher, 32, "cpu")
    bank = load_bank(teacher, data, False, None) if settings.distill.needs_bank else None
    gan = build_trainer(settings, 10, "cpu", teacher, lambda: bank)
    assert gan.discriminator_step(batch(), batch().labels, 0)["distill_loss"].isfinite()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("distill.pairs=[{student: {layer: nowhere}}]", "no layer 'nowhere'"),
        ("distill.method.projection=identity", "equal widths"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_features_are_computed(
    fault: str, message: str, small: MakeSettings
) -> None:
    settings = small(fault, "distill.view=clean")
    assert settings.distill is not None
    teacher = load_teacher(settings.distill.teacher, 32, "cpu")
    never = lambda: pytest.fail("the bank was computed")  # noqa: E731
    with pytest.raises(ValueError, match=message):
        build_trainer(settings, 10, "cpu", teacher, never)


@pytest.mark.parametrize(
    ("method", "images", "least"),
    [("pkd", "both", 1), ("pkd", "real", 2), ("spkd", "fake", 2), ("rkd", "both", 2),
     ("rkd", "real", 3), ("vicreg", "real", 2), ("kd_dlgm", "both", 1), ("fitnets", "real", 1)],
)  # fmt: skip
def test_a_batch_too_small_for_a_relational_loss_is_refused(
    method: str, images: str, least: int, small: MakeSettings
) -> None:
    """One image fewer than the least is refused; the least number gives a finite loss."""
    chosen = [f"distill.method={method}", f"distill.images={images}"]

    def make(size: int) -> Trainer:
        settings = small(*chosen, f"train.batch_size={size}")
        assert settings.distill is not None
        teacher = load_teacher(settings.distill.teacher, 32, "cpu")
        return build_trainer(settings, 10, "cpu", teacher, text=torch.eye(10, 64))

    if least > 1:
        with pytest.raises(ValueError, match=f"method = {method} relates"):
            make(least - 1)
    one = Batch(*(value[:least] for value in batch()))
    result = make(least).discriminator_step(one, one.labels, 0)
    assert result["distill_loss"].isfinite()


def test_each_pair_of_layers_has_its_own_projection(small: MakeSettings) -> None:
    pairs = (
        "distill.pairs=[{student: {layer: blocks.1.0, pool: sum}, teacher: {layer: layer2}, "
        "weight: 0.5}, {weight: 2}, {teacher: {layer: linear}}]"
    )
    settings = small(pairs, "distill.weight=3", arm="layernorm")
    assert settings.distill is not None
    layers = [pair.teacher or settings.distill.teacher for pair in settings.distill.pairs]
    teacher = load_teacher(settings.distill.teacher, 32, "cpu", layers)
    gan = build_trainer(settings, 10, "cpu", teacher)
    assert gan.distillation is not None
    assert teacher.widths == [32, 64, 10]
    shapes = [m.project.matrix().shape for m in gan.distillation.method.methods]
    assert shapes == [(32, 8), (64, 8), (10, 8)]

    images, labels = batch().images, batch().labels
    gan.discriminator.eval()
    with gan.distillation.reading():
        features = gan.discriminate(images, labels).features
    students = gan.distillation.students(features)
    h = gan.discriminator.blocks[1][0](gan.discriminator.blocks[0][0](images))
    torch.testing.assert_close(students[0], h.sum((2, 3)))
    torch.testing.assert_close(students[1], gan.discriminator.features(images))
    network = teacher.network
    x = images  # with mean and std of 0.5, the classifier's input equals the images
    x = network.layer2(network.layer1(F.relu(network.bn1(network.conv1(x)))))
    targets = [x.mean((2, 3)), teacher.network.layer3(x).mean((2, 3)), teacher.network(images)]
    expected = 0.0
    for w, s, t, m in zip(
        (0.5, 2, 1), students, targets, gan.distillation.method.methods, strict=True
    ):
        wanted = F.layer_norm(t, t.shape[1:])
        expected += w * float(F.mse_loss(s @ m.project.matrix().T, wanted).detach())
    loss = gan.distillation(students, batch(4), images, images)["distill_loss"]
    torch.testing.assert_close(float(loss.detach()), expected, rtol=1e-4, atol=0)

    before = copy(gan.distillation)
    gan.discriminator_step(batch(), labels, 0)
    gan.discriminator_step(batch(), labels, 0)
    moved = changed(before, gan.distillation)
    assert {f"method.methods.{i}.project.base" for i in range(3)} <= moved


def test_the_aggregated_term_is_added_to_the_method(small: MakeSettings) -> None:
    """Through its own head or the student's, with its own weight."""
    images, features = batch().images, torch.randn(8, 8)
    for feature in ("pooled", "head"):
        gan = build(small, "distill.aggregated=3", f"distill.student.feature={feature}")
        assert gan.distillation is not None
        assert (gan.distillation.head is None) == (feature == "head")
        gan.distillation.eval()  # freezes its power iteration
        losses = gan.distillation([features], batch(4), images, images)
        head = gan.distillation.head or gan.distillation.features[0].head
        ours, theirs = head(features), gan.distillation.teacher(images)
        expected = sum(
            (side - anchor).norm(dim=1).mean()
            for side in (ours[:4], ours[4:])
            for anchor in (theirs[:4], theirs[4:])
        )
        torch.testing.assert_close(losses["aggregated_loss"], 3 * expected)
        without = build(small, f"distill.student.feature={feature}")
        assert without.distillation is not None
        assert without.distillation.head is None
        assert "aggregated_loss" not in without.distillation([features], batch(4), images, images)


def test_the_aggregated_term_trains_its_head(small: MakeSettings) -> None:
    gan = build(small, "distill.aggregated=3")
    assert gan.distillation is not None
    before = copy(gan.distillation)
    losses = gan.discriminator_step(batch(), batch().labels, 0)
    assert losses["aggregated_loss"] > 0
    moved = changed(before, gan.distillation)
    assert {n for n, _ in gan.distillation.head.named_parameters(prefix="head")} <= moved


def test_weights_statistics_and_losses_stay_float32_with_bfloat16(small: MakeSettings) -> None:
    """Spectral norms equal those of float32 bit for bit; the losses are close."""
    plain, lowered = (
        build(small, "model.ch=8", f"train.precision={precision}")
        for precision in ("float32", "bfloat16")
    )
    for network in ("generator", "discriminator"):
        sigma = [m for m in getattr(plain, network).modules() if hasattr(m, "normalized_weight")]
        ours = [m for m in getattr(lowered, network).modules() if hasattr(m, "normalized_weight")]
        for a, b in zip(sigma, ours, strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                weight = b.normalized_weight()
            assert torch.equal(a.normalized_weight(), weight)
    losses = []
    for gan in (plain, lowered):
        torch.manual_seed(1)
        logged = gan.discriminator_step(batch(), batch().labels, 0)
        torch.manual_seed(2)
        logged |= gan.generator_step(batch().labels, 0)
        assert all(value.dtype == torch.float32 for value in logged.values())
        gradients = gan.discriminator_gradients() | gan.generator_gradients()
        assert all(value.dtype == torch.float32 for value in gradients.values())
        losses.append(logged)
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=0.05, atol=0.05)
    assert losses[0]["d_loss"] != losses[1]["d_loss"]
    for name, value in lowered.generator.state_dict().items():
        assert value.dtype == torch.float32, name

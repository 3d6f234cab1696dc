"""The explained share: R^2 of the teacher by the discriminator on held-out images."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gan_vkd.data.image_set import to_network
from gan_vkd.data.sets import load_heldout_set
from gan_vkd.distill import retract
from gan_vkd.game.build import build_trainer
from gan_vkd.game.explained import ExplainedShare, explained_share
from gan_vkd.run import Run
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.training import train
from tests.conftest import MakeSettings
from tests.test_gan import batch, build, copy


def test_the_share_is_r2_with_the_best_centre_and_factor() -> None:
    from scipy.optimize import minimize
    from sklearn.metrics import r2_score

    source = torch.Generator().manual_seed(0)
    target = torch.randn(50, 4, generator=source) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    ours = 5 + 0.1 * (target + torch.randn(50, 4, generator=source))
    target, ours = target.double(), ours.double()

    def error(free: list[float]) -> float:
        fitted = free[0] * ours + torch.tensor(free[1:])
        return -r2_score(target, fitted, multioutput="variance_weighted")

    expected = -minimize(error, [1.0, 0, 0, 0, 0], tol=1e-10).fun
    torch.testing.assert_close(float(explained_share(ours, target)), expected, rtol=1e-4, atol=0)
    assert explained_share(3 * target + 1, target) == pytest.approx(1)
    assert explained_share(-target, target) == 0
    assert explained_share(torch.ones(50, 4, dtype=torch.float64), target) == 0


def test_the_share_is_measured_on_unaugmented_heldout_images(small: MakeSettings) -> None:
    gan = build(small, "distill.student.scaling=batch", arm="layernorm")
    gan.discriminator_step(batch(), batch().labels, 0)
    heldout = load_heldout_set(small().data)
    assert heldout is not None
    share = ExplainedShare(gan, heldout, seed=3)
    order = torch.randperm(len(heldout), generator=torch.Generator().manual_seed(3))[:200]
    images = to_network(heldout.images[order])
    gan.discriminator.eval()
    assert gan.distillation is not None
    gan.distillation.eval()
    with torch.no_grad():
        z = gan.discriminator.features(images)
        projected = gan.distillation.method.methods[0].project(gan.distillation.features[0](z)[1])
        target = F.layer_norm(gan.distillation.teacher(images), (64,))
    torch.testing.assert_close(share(), float(explained_share(projected, target)))
    assert not gan.discriminator.training, "in the mode that it was in"
    assert not gan.distillation.training
    gan.discriminator.train()
    share()
    assert gan.discriminator.training
    assert not gan.distillation.training


def test_fitting_the_discriminator_to_the_teacher_raises_the_share(small: MakeSettings) -> None:
    """Only the distillation loss, on 40 of the evaluated images."""
    chosen = ["model.ch=8", "distill.images=real", "distill.student.scaling=batch"]
    gan = build(small, *chosen, arm="layernorm")
    heldout = load_heldout_set(small().data)
    assert heldout is not None
    assert gan.distillation is not None
    share = ExplainedShare(gan, heldout.subset(list(range(40))), seed=0)
    learnt = [*gan.discriminator.parameters(), *gan.distillation.parameters()]
    optimizer, before = torch.optim.Adam(learnt, 2e-3), share()
    images, labels = to_network(heldout.images[:40]), heldout.labels[:40]
    for number in range(40):
        rows = torch.arange(8) + 8 * (number % 5)
        part = batch()._replace(images=images[rows], labels=labels[rows])
        both = torch.cat([part.images, part.images])
        z = gan.discriminate(both, torch.cat([part.labels, part.labels])).features
        loss = gan.distillation([z], part, both, both)["distill_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        retract(gan.distillation)
    assert share() > before + 0.1


def test_the_share_uses_the_map_of_each_method(small: MakeSettings) -> None:
    for method, part in (("fitnets", "regress"), ("vicreg", "project")):
        gan = build(small, f"distill.method={method}")
        heldout = load_heldout_set(small().data)
        assert heldout is not None
        share = ExplainedShare(gan, heldout, seed=0)
        gan.discriminator.eval()
        assert gan.distillation is not None
        with torch.no_grad():
            z = torch.cat([gan.discriminator.features(images) for images in share.images])
            mapped = getattr(gan.distillation.method.methods[0], part)(z)
            teacher = torch.cat([gan.distillation.teacher(images) for images in share.images])
        expected = float(explained_share(mapped, teacher))
        torch.testing.assert_close(share(), expected, rtol=1e-3, atol=1e-6)


def test_methods_without_a_map_have_no_share(small: MakeSettings) -> None:
    assert not ExplainedShare.is_defined(build(small, arm="none"))
    assert not ExplainedShare.is_defined(build(small, "distill.method=spkd"))
    assert ExplainedShare.is_defined(build(small))


@pytest.mark.parametrize("feature", ["pooled", "head"])
def test_measuring_the_share_changes_no_state(feature: str, small: MakeSettings) -> None:
    """Bit for bit: the projection's base, the head's power iteration, all running averages."""
    chosen = [f"distill.student.feature={feature}", "distill.student.scaling=batch"]
    measured, alone = (build(small, *chosen) for _ in range(2))
    heldout = load_heldout_set(small().data)
    assert heldout is not None
    share = ExplainedShare(measured, heldout, seed=0)
    for number in range(4):
        for gan in (measured, alone):
            torch.manual_seed(number)
            gan.discriminator_step(batch(), batch().labels, number)
        share()
    for gan in (measured, alone):  # one more step, which moves the base of both
        torch.manual_seed(9)
        gan.discriminator_step(batch(), batch().labels, 9)
    assert measured.distillation is not None
    assert alone.distillation is not None
    for ours, theirs in (
        (measured.distillation, alone.distillation),
        (measured.discriminator, alone.discriminator),
    ):
        other = copy(theirs)
        assert all(torch.equal(value, other[name]) for name, value in copy(ours).items())


def test_records_have_the_share_and_a_low_one_is_reported_once(
    small: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small("distill.weight=1e-9", "train.d_lr=1e-9", "train.log_every=2")
    train(settings, tmp_path / "run")
    records = [r for r in Run(tmp_path / "run").records("metrics") if "d_loss" in r]
    assert len(records) == 3
    keys = {"explained_share", "z_norm", "z_centred", "z_rank", "gradient_ratio", "distill_weight"}
    assert all(keys <= r.keys() for r in records)
    assert capsys.readouterr().out.count("the teacher is not being learnt") == 1


def test_the_share_uses_the_first_of_several_pairs(small: MakeSettings) -> None:
    pairs = (
        "distill.pairs=[{student: {layer: blocks.1.0}, teacher: {layer: layer1}}, "
        "{teacher: {layer: layer3}}]"
    )
    settings = small(pairs, arm="layernorm")
    assert settings.distill is not None
    layers = [pair.teacher for pair in settings.distill.pairs if pair.teacher is not None]
    teacher = load_teacher(settings.distill.teacher, 32, "cpu", layers)
    gan = build_trainer(settings, 10, "cpu", teacher)
    heldout = load_heldout_set(settings.data)
    assert heldout is not None
    assert ExplainedShare(gan, heldout, 0).teacher.shape == (200, teacher.widths[0])
    assert torch.isfinite(torch.tensor(ExplainedShare(gan, heldout, 0)()))

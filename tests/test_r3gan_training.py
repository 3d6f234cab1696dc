"""R3GAN in runs: steps with distillation, resume, sampling, export and its configurations."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gan_vkd.exchange import export_generator
from gan_vkd.game.settings import load_settings
from gan_vkd.networks.r3gan import Generator
from gan_vkd.run import Run
from gan_vkd.runtime import graphs
from gan_vkd.runtime.meter import Meter
from gan_vkd.runtime.schedule import Schedule
from gan_vkd.training import Game, train
from tests.conftest import CONFIGS, MakeSettings
from tests.graphs import recorded
from tests.resuming import assert_resumes_identically
from tests.test_gan import batch, build
from tests.test_stylegan2_training import trainer_of

R3GAN = (
    "model={name: r3gan, channel_base: 256, channel_max: 8, group_width: 4, z_dim: 8}",
    "adversary=relativistic",
    "augment=[{name: ada, p: 0.5, ramp: 0.05, groups: [blit, color, cutout], color_share: 0.5}]",
    "regularize={r1: {start: 2, end: 1, iterations: 5}, r2: 1, r1_every: 1}",
    "train.g_lr={start: 1e-3, end: 1e-4, iterations: 5}",
    "train.betas=[0, {start: 0.9, end: 0.99, iterations: 5}]",
    "train.ema_decay={half_life: {start: 0, end: 40, iterations: 5}, ramp_up: null}",
    "train.ema_start=0",
    "train.d_steps=1",
)


def test_an_interrupted_run_resumes_bit_for_bit(small: MakeSettings, tmp_path: Path) -> None:
    assert_resumes_identically(small(*R3GAN, "data.flip=true", arm="whitening"), tmp_path)
    state = Run(tmp_path / "whole").latest_state()["trained"]
    assert 0 < state["augment"]["parts.0.controller.p"] <= 0.5


def test_a_run_is_sampled_and_exported(small: MakeSettings, tmp_path: Path) -> None:
    settings = small(*R3GAN, "train.iterations=2", "evaluate.every=2", arm="none")
    train(settings, run := tmp_path / "run")
    generator, facts = Run(run).load_generator("cpu")
    assert isinstance(generator, Generator)
    assert facts["classes"] == 10
    export_generator(run, file := tmp_path / "generator.safetensors")
    assert load_file(file).keys() == generator.state_dict().keys()


def test_features_and_a_named_stage_are_distilled(small: MakeSettings) -> None:
    settings = small(
        *R3GAN,
        "distill.pairs=[{student: {layer: b16, pool: mean}}, {}]",
        "distill.weight=auto",
        "distill.student.scaling=batch",
    )
    trainer, batches = trainer_of(settings)
    assert trainer.distillation is not None
    assert [feature.width for feature in trainer.distillation.features] == [8, 8]
    for step in range(3):
        given = batches(step)
        logged = trainer.discriminator_step(given, given.labels, step)
        logged |= trainer.generator_step(given.labels, step, given)
        assert all(value.isfinite() for value in logged.values())
        assert float(logged["gradient_ratio"]) == pytest.approx(1, rel=1e-3)
    reached = trainer.distillation.method.named_parameters()
    assert all(parameter.grad is not None for _, parameter in reached)


def test_bfloat16_stays_finite(small: MakeSettings) -> None:
    trainer, batches = trainer_of(small(*R3GAN, "train.precision=bfloat16", arm="none"))
    for step in range(4):
        given = batches(step)
        logged = trainer.discriminator_step(given, given.labels, step)
        logged |= trainer.generator_step(given.labels, step, given)
        assert all(value.isfinite() for value in logged.values())


def test_each_network_compiles_to_one_graph(small: MakeSettings) -> None:
    trainer = build(small, *R3GAN, arm="none")
    z, labels, images = torch.randn(8, 8), torch.arange(8), torch.randn(8, 3, 32, 32)
    networks = trainer.generator, trainer.discriminator
    for network, given in zip(networks, ((z, labels), (images, labels)), strict=True):
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
        found = compiled(*given), network(*given)
        torch.testing.assert_close(*found)
        (found[0] if isinstance(found[0], Tensor) else found[0].score).sum().backward()


def test_a_relative_loss_compares_pairs_of_one_class(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both updates, as published; other losses draw the classes of generated images."""
    for adversary in ("relativistic", "hinge"):
        game = Game(small(*R3GAN, f"adversary={adversary}", arm="none"), Run(tmp_path), "cpu")
        seen: list[tuple[Tensor, Tensor]] = []
        discriminate = game.trainer.discriminate

        def noted(images: Tensor, labels: Tensor, seen: list = seen, call: object = discriminate):
            seen.append(labels)
            return call(images, labels)  # type: ignore[operator]

        monkeypatch.setattr(game.trainer, "discriminate", noted)
        game.step(0, Meter())
        halves = [labels.chunk(2) for labels in seen[:1]]
        if adversary == "relativistic":
            halves.append((seen[1], seen[2]))
            assert all(torch.equal(*pair) for pair in halves)
        else:
            assert len(seen) == 2
            assert not torch.equal(*halves[0])


def test_ada_observes_what_a_relative_loss_determines(small: MakeSettings) -> None:
    """The signs of differences: those of scores may all be shifted without effect."""
    trainer = build(small, *R3GAN, "train.d_lr=1e-30", arm="none")
    seen: list[Tensor] = []
    trainer.augment.observe = seen.append  # type: ignore[method-assign]
    logged = trainer.discriminator_step(batch(), batch().labels, 0)
    difference = logged["real_score"] - logged["fake_score"]
    torch.testing.assert_close(seen[0].mean(), difference.detach())


def test_graphs_of_earlier_betas_are_released(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph has the betas of its capture and keeps memory: there is never more than one."""
    monkeypatch.setattr(graphs, "EAGER", 1)
    betas = "train.betas=[0, {start: 0.9, end: 0.99, iterations: 128}]"
    game, meter = Game(small(*R3GAN, betas, arm="none"), Run(tmp_path), "cpu"), Meter()
    game.updates.d_step.capture = game.updates.g_step.capture = recorded
    known = []
    for done in range(9):
        meter.begin(done)
        game.step(done, meter)
        known.append([*game.updates.d_step.graphs])
    assert [len(variants) for variants in known] == [0, 1, 1, 1, 0, 1, 1, 1, 0]
    held = [variants[0][0][1] for variants in (known[3], known[7])]  # beta2
    schedule = Schedule(start=0.9, end=0.99, iterations=128)
    assert held == [schedule(0), schedule(4)]


def test_values_held_in_steps_reach_the_end() -> None:
    schedule = Schedule(start=0, end=1, iterations=100)
    held = [schedule.in_steps(i) for i in range(120)]
    assert held[:6] == [schedule(i) for i in (0, 0, 0, 3, 3, 3)]
    assert held[99:] == [schedule(99), *[1] * 20]
    assert [Schedule(end=1, iterations=5).in_steps(i) for i in range(7)] == [
        Schedule(end=1, iterations=5)(i) for i in range(7)
    ]


def test_the_shipped_configurations_are_those_published() -> None:
    folder = load_settings(CONFIGS / "folder+networks/r3gan", ["data.source=digits"])
    assert folder.of_length().train.g_lr.iterations == folder.train.iterations == 20_000  # type: ignore[union-attr]
    cifar = load_settings(CONFIGS / "cifar10_10pct+networks/r3gan_cifar", [])
    chosen, train = cifar.regularize, cifar.train
    assert (cifar.adversary.name, train.d_steps, chosen.r1_every) == ("relativistic", 1, 1)
    assert train.batch_size * train.iterations == pytest.approx(250e6, rel=1e-5)
    annealed = train.g_lr, train.d_lr, train.betas[1], chosen.r1, chosen.r2
    ends = [(s.start, s.end) for s in annealed]  # type: ignore[union-attr]
    assert ends == [(2e-4, 5e-5), (2e-4, 5e-5), (0.9, 0.99), (0.05, 0.005), (0.05, 0.005)]
    assert {s.iterations * train.batch_size for s in annealed} == {39063 * 512}  # type: ignore[union-attr]
    half_life = train.ema_decay.half_life  # type: ignore[union-attr]
    assert (half_life.start, half_life.end, half_life.iterations) == (0, 5e6, 39063)
    (ada,) = cifar.policy
    assert (ada["p"], ada["ramp"], ada["color_share"]) == (0.55, 20_000, 0.5)

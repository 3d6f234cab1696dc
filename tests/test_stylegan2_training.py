"""StyleGAN2 in runs: steps with distillation, resume, sampling, export and precision."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from gan_vkd.cli import app
from gan_vkd.data.batches import Batches
from gan_vkd.data.sets import load_training_set
from gan_vkd.exchange import export_generator
from gan_vkd.game.build import build_trainer
from gan_vkd.game.ema import HalfLife
from gan_vkd.game.settings import Settings, load_settings
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.stylegan2 import Generator
from gan_vkd.run import Run
from gan_vkd.teachers.frozen import as_layer, load_teacher
from gan_vkd.training import train
from tests.conftest import CONFIGS, MakeSettings
from tests.resuming import assert_resumes_identically

STYLEGAN2 = (
    "model={name: stylegan2, channel_base: 64, channel_max: 8, z_dim: 8, w_dim: 8}",
    "adversary=non_saturating",
    "regularize={r1: auto, r1_every: 2}",
    "train.betas=[0.0, 0.99]",
)


def trainer_of(settings: Settings) -> tuple[Trainer, Batches]:
    data, teacher = load_training_set(settings.data), None
    torch.manual_seed(0)
    if settings.distill is not None:
        chosen = settings.distill.teacher
        layers = [pair.teacher or chosen for pair in settings.distill.pairs]
        teacher = load_teacher(chosen, settings.data.resolution, "cpu", layers)
    trainer = build_trainer(settings, 10, "cpu", teacher)
    return trainer, Batches(data, settings.train.batch_size, flip=False, seed=0, device="cpu")


def test_an_interrupted_run_resumes_bit_for_bit(small: MakeSettings, tmp_path: Path) -> None:
    settings = small(*STYLEGAN2, "data.flip=true", arm="whitening")
    assert_resumes_identically(settings, tmp_path)
    state = Run(tmp_path / "whole").latest_state()["trained"]
    for part in ("generator", "average"):
        assert state[part]["mapping.w_avg"].abs().max() > 0
    noise = "synthesis.b8.conv0.noise_const"
    assert torch.equal(state["generator"][noise], state["average"][noise])


def test_a_run_is_sampled_truncated_and_exported(small: MakeSettings, tmp_path: Path) -> None:
    settings = small(*STYLEGAN2, "train.iterations=2", "evaluate.every=2", arm="none")
    train(settings, run := tmp_path / "run")
    generator, facts = Run(run).load_generator("cpu")
    assert isinstance(generator, Generator)
    assert facts["classes"] == 10
    export_generator(run, file := tmp_path / "generator.safetensors")
    assert load_file(file).keys() == generator.state_dict().keys()

    def grid(*options: str) -> Path:
        out = tmp_path / f"grid{'_'.join(options)}.png"
        answer = CliRunner().invoke(app, ["sample", str(run), "--out", str(out), *options])
        assert answer.exit_code == 0, answer.output
        return out

    once = Image.open(grid()).tobytes()
    assert Image.open(grid("--seed", "0")).tobytes() == once
    assert Image.open(grid("--truncation", "0.5")).tobytes() != once


def test_biggan_cannot_be_truncated(own_run: Path, tmp_path: Path) -> None:
    arguments = ["sample", str(own_run), "--out", str(tmp_path / "x.png"), "--truncation", "0.5"]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code != 0
    assert "--truncation: the network of" in str(answer.exception)
    assert "has no truncation" in str(answer.exception)


def test_features_and_a_named_block_are_distilled(small: MakeSettings) -> None:
    settings = small(
        *STYLEGAN2,
        "distill.pairs=[{student: {layer: b8, pool: sum}}, {}]",
        "distill.weight=auto",
        "distill.student.scaling=batch",
    )
    trainer, batches = trainer_of(settings)
    before = trainer.discriminator.b8.conv0.weight.detach().clone()
    for step in range(2):
        batch = batches(step)
        logged = trainer.discriminator_step(batch, batches.random_labels(8), step)
        logged |= trainer.generator_step(batches.random_labels(8), step)
        assert all(value.isfinite() for value in logged.values())
        assert float(logged["gradient_ratio"]) == pytest.approx(1, rel=1e-3)
    assert not torch.equal(trainer.discriminator.b8.conv0.weight, before)
    assert trainer.distillation is not None
    reached = trainer.distillation.method.named_parameters()
    assert all(parameter.grad is not None for _, parameter in reached)


def test_a_named_block_is_measured_by_its_channels(small: MakeSettings) -> None:
    settings = small(*STYLEGAN2, "distill.pairs=[{student: {layer: b16, pool: mean}}]")
    assert settings.distill is not None
    assert as_layer(settings.distill.pairs[0].student, "").name == "b16"
    trainer, _ = trainer_of(settings)
    assert trainer.distillation is not None
    assert trainer.distillation.features[0].width == 8  # b16 ends with the channels of 8 x 8


def test_bfloat16_stays_finite(small: MakeSettings) -> None:
    settings = small(*STYLEGAN2, "train.precision=bfloat16", arm="none")
    trainer, batches = trainer_of(settings)
    for step in range(4):
        logged = trainer.discriminator_step(batches(step), batches.random_labels(8), step)
        assert ("r1_loss" in logged) == (step % 2 == 0)
        logged |= trainer.generator_step(batches.random_labels(8), step)
        assert all(value.isfinite() for value in logged.values())


def test_each_network_compiles_to_one_graph(small: MakeSettings) -> None:
    trainer, _ = trainer_of(small(*STYLEGAN2, arm="none"))
    z, labels, images = torch.randn(8, 8), torch.arange(8), torch.randn(8, 3, 32, 32)
    networks = trainer.generator, trainer.discriminator
    for network, given in zip(networks, ((z, labels), (images, labels)), strict=True):
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
        found = []
        for forward in (compiled, network):
            torch.manual_seed(0)
            output = forward(*given)
            found.append(output if network is trainer.generator else output.score)
        torch.testing.assert_close(*found)
        found[0].sum().backward()


@pytest.mark.parametrize(("batch", "group"), [(8, 4), (50, 2), (7, 1), (3, 3), (2, 2)])
def test_the_group_of_the_minibatch_deviation_divides_the_batch(
    batch: int, group: int, small: MakeSettings
) -> None:
    settings = small(*STYLEGAN2, f"train.batch_size={batch}", arm="none")
    assert trainer_of(settings)[0].discriminator.group == group


@pytest.mark.parametrize(("resolution", "batch"), [(32, 32), (64, 16)])
def test_the_automatic_weight_of_r1_is_as_published(
    resolution: int, batch: int, small: MakeSettings
) -> None:
    settings = small(
        *STYLEGAN2, f"data.resolution={resolution}", f"train.batch_size={batch}", arm="none"
    )
    weight = trainer_of(settings)[0].regularizers["r1_loss"].weight(0)
    assert weight == pytest.approx(0.0002 * resolution**2 / batch)


def test_a_network_is_refused_at_a_resolution_it_does_not_have(small: MakeSettings) -> None:
    with pytest.raises(Exception, match=r"data\.resolution = 128: BigGAN takes 32, 64"):
        small("data.resolution=128", arm="none")
    assert small(*STYLEGAN2, "data.resolution=128", arm="none").data.resolution == 128


def decay_of(settings: Settings) -> Callable[[int], float]:
    assert isinstance(settings.train.ema_decay, HalfLife)
    return settings.train.ema_decay.of_batch(settings.train.batch_size)


def test_the_shipped_configurations_are_those_published() -> None:
    source = ["data.source=digits"]
    auto = load_settings(CONFIGS / "folder+networks/stylegan2", source)
    assert auto.model.chosen["channel_base"] == "auto"
    assert auto.regularize.r1 == "auto"
    assert (auto.regularize.path_length, auto.regularize.path_length_every) == (2, 4)
    assert decay_of(auto)(10**6) == pytest.approx(0.5 ** (32 / 10_000), abs=1e-9)
    assert decay_of(auto)(100) == pytest.approx(0.5 ** (32 / (0.05 * 3200)))
    cifar = load_settings(CONFIGS / "cifar10_10pct+networks/stylegan2_cifar", [])
    assert cifar.train.batch_size * cifar.train.iterations == 100_000_000
    assert decay_of(cifar)(10**6) == pytest.approx(0.5 ** (64 / 500_000), abs=1e-9)
    assert cifar.regularize.path_length == 0
    assert cifar.train.betas == (0.0, 0.99)
    assert cifar.adversary.name == "non_saturating"

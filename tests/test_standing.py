"""Batch norm of the sampled generator: standing, running and batch statistics."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_vkd.data.batches import Batches
from gan_vkd.data.sets import load_training_set
from gan_vkd.evaluation.distances import frechet_distance
from gan_vkd.evaluation.evaluator import load_reference
from gan_vkd.evaluation.judge import make_extractor
from gan_vkd.evaluation.record import distances
from gan_vkd.evaluation.settings import EvaluateSettings
from gan_vkd.game.build import build_trainer
from gan_vkd.game.settings import Settings
from gan_vkd.networks.biggan import Generator
from gan_vkd.networks.sampling import draw_inputs, draw_samples
from gan_vkd.networks.standing import as_sampled
from gan_vkd.run import Run
from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.training import train
from tests.conftest import SHARES, MakeSettings, evaluator_of
from tests.processes import on_ranks
from tests.states import differences

MODES = ["standing", "running", "batch"]
UNEQUAL = [0.5, 0.2, 0.1, 0.05, 0.05, 0.02, 0.02, 0.02, 0.02, 0.02]


def sampled_by(small: MakeSettings, mode: str) -> EvaluateSettings:
    return small(f"evaluate.batch_norm={mode}", "evaluate.num_samples=100").evaluate


def in_training_mode(generator: Generator) -> Generator:
    """Returns a copy with only the batch norms in training mode, not the spectral norms."""
    network = copy.deepcopy(generator).eval()
    for norm in network.batch_norms():
        norm.train()
    return network


def statistics(generator: Generator) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in generator.state_dict().items() if "stored_" in k}


def test_standing_statistics_are_mean_and_variance_of_all_activations(
    small: MakeSettings, generator: Generator
) -> None:
    settings = small("evaluate.standing_batches=3", "evaluate.batch_size=7").evaluate
    found = as_sampled(generator, UNEQUAL, settings).batch_norms()
    slow, seen = in_training_mode(generator), []
    for norm in slow.batch_norms():
        norm.register_forward_hook(lambda _, args, output: seen.append(args[0]))
    latents, labels = draw_inputs(Generator(32, 2, 8, 10), UNEQUAL, 21, settings.seed + 1)
    with torch.no_grad():
        for z, y in zip(latents.split(7), labels.split(7), strict=True):
            slow(z, y)
    assert len(seen) == 3 * len(found)
    for place, norm in enumerate(found):
        activations = torch.cat(seen[place :: len(found)]).double()
        mean, variance = activations.mean((0, 2, 3)), activations.var((0, 2, 3))
        torch.testing.assert_close(norm.stored_mean.double(), mean, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(norm.stored_var.double(), variance, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_sampling_does_not_change_the_generator_or_the_random_state(
    mode: str, small: MakeSettings, generator: Generator
) -> None:
    generator.train()
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    random = torch.get_rng_state()
    sampled = as_sampled(generator, SHARES, sampled_by(small, mode))
    draw_samples(sampled, SHARES, 20, 10, 0)
    assert torch.equal(torch.get_rng_state(), random)
    assert generator.training
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())
    changed = {k for k, v in sampled.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == (set(statistics(generator)) if mode == "standing" else set())


def test_standing_statistics_depend_on_seed_and_weights_only(
    small: MakeSettings, generator: Generator
) -> None:
    settings = small(arm="none").evaluate
    once = as_sampled(generator, SHARES, settings)
    for other in (as_sampled(generator, SHARES, settings), as_sampled(once, SHARES, settings)):
        assert all(torch.equal(v, statistics(once)[k]) for k, v in statistics(other).items())
    seeded = as_sampled(generator, SHARES, small("evaluate.seed=5").evaluate)
    assert not torch.equal(seeded.batch_norms()[0].stored_mean, once.batch_norms()[0].stored_mean)


def test_batch_mode_normalises_each_batch_as_in_training(
    small: MakeSettings, generator: Generator
) -> None:
    sampled = as_sampled(generator, SHARES, sampled_by(small, "batch"))
    expected = draw_samples(in_training_mode(generator), SHARES, 20, 5, 0)
    assert torch.equal(draw_samples(sampled, SHARES, 20, 5, 0), expected)
    plain = as_sampled(sampled, SHARES, sampled_by(small, "running"))
    assert torch.equal(
        draw_samples(plain, SHARES, 20, 5, 0), draw_samples(generator, SHARES, 20, 5, 0)
    )


def test_standing_statistics_give_the_distance_of_training_mode(small: MakeSettings) -> None:
    """Early in training, when the EMA of the running statistics lags far behind the weights."""
    training = ["train.d_steps=1", "train.ema_decay=0.97", "train.g_lr=2e-3", "train.d_lr=2e-3"]
    settings = small(*training, arm="none")
    torch.manual_seed(0)
    gan = build_trainer(settings, 10, "cpu")
    batches = Batches(load_training_set(settings.data), 8, flip=False, seed=0, device="cpu")
    for step in range(31):
        gan.discriminator_step(batches(step), batches.random_labels(8), step)
        gan.generator_step(batches.random_labels(8), step)
    extractor = make_extractor(settings.evaluate.features, 32, "cpu")
    reference = extractor.features(load_reference("heldout", settings.data).images, 100)

    def distance(mode: str) -> float:
        sampled = as_sampled(gan.ema.generator, SHARES, sampled_by(small, mode))
        images = draw_samples(sampled, SHARES, 1000, 100, 0)
        return frechet_distance(extractor.features(images, 100), reference)

    batch = distance("batch")
    assert distance("standing") == pytest.approx(batch, rel=0.02)
    assert distance("running") > 1.5 * batch


def _measure(rank: int, world: int, file: str, settings: list[Settings], queue: Any) -> None:
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    torch.manual_seed(0)
    generator, found = Generator(32, 2, 8, 10), []
    for chosen in settings:
        sampled = as_sampled(generator, SHARES, chosen.evaluate)
        means = [norm.stored_mean.tolist() for norm in sampled.batch_norms()]
        found.append((evaluator_of(chosen)(sampled, SHARES), means))
    assert ranks.world() == world
    queue.put((rank, found))
    if world > 1:
        torch.distributed.destroy_process_group()


def test_two_ranks_equal_one_process(small: MakeSettings, classifier: Path, tmp_path: Path) -> None:
    """In batch mode, two ranks share three batches without splitting any."""
    also = f"evaluate.also=[{{name: classifier, weights: {classifier}, size: 16}}]"
    size = ["evaluate.batch_size=20", "evaluate.num_samples=60", also]
    settings = [small(*size, f"evaluate.batch_norm={mode}") for mode in ("standing", "batch")]
    alone = on_ranks(1, _measure, "", settings)[0]
    for found in on_ranks(2, _measure, str(tmp_path / "meet"), settings).values():
        for (measures, means), (expected, expected_means) in zip(found, alone, strict=True):
            assert means == expected_means
            measures, expected = measures | distances(measures), expected | distances(expected)
            assert len(measures.pop("judges")) == len(expected.pop("judges")) == 2
            for name, value in expected.items():
                close = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
                assert measures[name] == close, name


@pytest.mark.parametrize("mode", MODES)
def test_the_exported_generator_is_the_evaluated_one(
    mode: str, small: MakeSettings, tmp_path: Path
) -> None:
    settings = small(f"evaluate.batch_norm={mode}", "evaluate.batch_size=10", arm="none")
    train(settings, tmp_path / "run")
    run = Run(tmp_path / "run")
    generator, facts = run.load_generator("cpu")
    (measured,) = [
        record
        for record in run.records("metrics")
        if "judges" in record and record["iteration"] == facts["iteration"]
    ]
    generator.to(memory_format=torch.channels_last)  # as in training
    again = evaluator_of(settings)(generator, facts["shares"])
    assert measured["batch_norm"] == mode
    again, measured = again | distances(again), measured | distances(measured)
    assert len(again.pop("judges")) == len(measured.pop("judges"))
    for name, value in again.items():  # up to rounding, which differs with the memory layout
        close = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
        assert measured[name] == close, name


def test_training_does_not_depend_on_the_sampling_mode(small: MakeSettings, tmp_path: Path) -> None:
    for mode in MODES:
        changes = [f"evaluate.batch_norm={mode}", "evaluate.batch_size=10", "train.sample_every=2"]
        train(small(*changes, "train.iterations=3"), tmp_path / mode)
    for mode in MODES[1:]:
        found = differences(tmp_path / "standing", tmp_path / mode)
        assert not [key for key in found if not key.startswith("/progress/best")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["batch_norm=running", "standing_batches=3"], "belongs to batch_norm = standing"),
        (["batch_norm=batch", "num_samples=250"], "250 is not a multiple of batch_size = 100"),
    ],
)
def test_inconsistent_settings_are_refused(
    changes: list[str], message: str, small: MakeSettings
) -> None:
    with pytest.raises(SettingsError, match=message):
        small(*(f"evaluate.{change}" for change in changes))

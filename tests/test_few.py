"""Warnings of too few pictures: the test behind them, its false alarms, and what tables show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from gan_vkd.evaluation.few import FEW, LEVEL, WARNINGS, exceeds, warnings
from gan_vkd.evaluation.measures import Neighbourhoods, memorisation_rate
from gan_vkd.report import compare as compare_module
from gan_vkd.report.compare import compare
from gan_vkd.run import Run
from tests.conftest import MakeSettings

HELDOUT = {"memorised_by_chance": 0.4, "reference_images": 300}


def record(**changed: Any) -> dict[str, Any]:
    """Of 1,000 samples, 40% of which are memorised, as are 40% of 300 held-out images."""
    facts = {"training_images": 5000, "num_samples": 1000, "memorised": 0.4}
    return facts | HELDOUT | changed


def test_few_images_and_copies_are_warned_of() -> None:
    assert warnings(record()) == []
    assert warnings(record(training_images=FEW)) == []
    assert warnings(record(training_images=FEW - 1)) == ["few pictures"]
    assert warnings(record(memorised=0.7)) == ["copies"]
    assert warnings(record(memorised=0.1)) == []
    assert warnings(record(memorised=1.0, training_images=20)) == ["few pictures", "copies"]


def test_without_a_heldout_set_the_training_images_are_left_out_in_turn() -> None:
    """Two of them say as much as one held-out image."""
    unknown = {"training_images": 600, "num_samples": 1000, "reference_images": 600}
    assert warnings(unknown | {"memorised": 1.0}) == []
    for rate in np.linspace(0, 1, 21):
        of_heldout = warnings(record(memorised=float(rate)))
        left_out = {"memorised": float(rate), "memorised_left_out": 0.4}
        assert warnings(unknown | left_out) == of_heldout


def test_records_without_these_numbers_give_no_warning() -> None:
    """Of earlier versions, without a training set, or of a stranger."""
    bare = {"num_samples": 1000, "reference_images": 300}
    assert warnings(bare) == []
    assert warnings(bare | {"memorised_by_chance": 0.1}) == []
    assert warnings(bare | {"memorised": 0.9, "memorised_by_chance": 0.1}) == ["copies"]
    assert warnings(bare | {"memorised": 0.9, "memorised_left_out": 0.1}) == []
    for odd in (-5.0, 7.0, 1e300):
        assert warnings(bare | {"memorised": 0.9, "memorised_by_chance": odd}) == []
    assert warnings(record(num_samples=0, reference_images=0)) == []


@pytest.mark.parametrize(("n", "m"), [(60, 25), (500, 40), (30, 300)])
def test_false_alarms_are_at_most_the_level_whatever_the_sizes(n: int, m: int) -> None:
    """The exact probability of an alarm, where both shares have the same expectation."""
    alarm = np.array([[exceeds((k / n, n), (h / m, m)) for h in range(m + 1)]
                      for k in range(n + 1)])  # fmt: skip
    assert alarm.any()
    for p in (0.01, 0.1, 0.35, 0.65, 0.95):
        both = np.outer(binom.pmf(range(n + 1), n, p), binom.pmf(range(m + 1), m, p))
        assert both[alarm].sum() <= LEVEL


def test_the_intervals_are_those_of_scipy() -> None:
    n, m, q = 100, 200, 0.3
    upper = binomtest(60, m).proportion_ci(1 - LEVEL).high  # two-sided: half of LEVEL at each end
    lower = [binomtest(k, n).proportion_ci(1 - LEVEL).low for k in range(n + 1)]
    assert [exceeds((k / n, n), (q, m)) for k in range(n + 1)] == [x > upper for x in lower]


@pytest.mark.parametrize("d", [1, 8, 64])
def test_images_left_out_estimate_the_rate_of_unseen_ones(d: int) -> None:
    """Simulated sets of 30 and of 200 images: the means agree, and the false alarms of samples from
    the same distribution are rare."""
    random, alarms = np.random.default_rng(d), []
    for n, trials in ((30, 150), (200, 50)):
        rates = []
        for _ in range(trials):
            training, unseen = random.normal(size=(n, d)), random.normal(size=(500, d))
            known = Neighbourhoods(training)
            rates.append((known.left_out_rate, memorisation_rate(unseen, known)))
            left_out, rate = rates[-1]
            facts = {"memorised": rate, "memorised_left_out": left_out, "num_samples": 500}
            alarms.append(bool(warnings(facts | {"training_images": n})) and n >= FEW)
        difference = np.subtract(*np.transpose(rates))
        error = difference.std() / trials**0.5
        assert abs(difference.mean()) < 4 * error + 1 / n  # of n - 1 images instead of n
    assert sum(alarms) <= 1


def test_the_rate_of_images_left_out_is_that_of_its_definition() -> None:
    training = np.random.default_rng(0).normal(size=(60, 4))
    each = [
        memorisation_rate(training[i : i + 1], np.delete(training, i, axis=0)) for i in range(60)
    ]
    assert Neighbourhoods(training).left_out_rate == np.mean(each)
    twice = np.repeat(training, 2, axis=0)
    assert Neighbourhoods(twice).left_out_rate == 1


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_copies_are_noticed(share: float) -> None:
    """Samples of which a share are copies of 200 images, in 64 dimensions."""
    random = np.random.default_rng(0)
    training, unseen = random.normal(size=(200, 64)), random.normal(size=(500, 64))
    copied = random.random(500) < share
    noisy = training[random.integers(200, size=500)] + 0.1 * random.normal(size=(500, 64))
    known = Neighbourhoods(training)
    rate = memorisation_rate(np.where(copied[:, None], noisy, unseen), known)
    facts = {"memorised": rate, "memorised_left_out": known.left_out_rate}
    assert warnings(facts | {"num_samples": 500, "training_images": 200}) == ["copies"]


def written(make: MakeSettings, folder: Path, seed: int, *records: dict[str, Any]) -> Path:
    run = Run(folder / f"run{seed}")
    run.write_settings(make(f"seed={seed}", arm="none").dump())
    judge = {"frechet_name": "FD(x)", "kernel_name": "KD(x)", "identity": "", "kernel": 0.0}
    for iteration, own in enumerate(records, 1):
        facts = {"iteration": iteration, "seconds": 1.0, "reference": "heldout"}
        judges = [judge | {"frechet": own.pop("frechet")}]
        run.append("metrics", facts | {"judges": judges} | own)
    return run.path


def test_tables_mark_the_runs_and_say_what_to_do(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the best evaluation or the last; the line below is there once."""
    monkeypatch.setattr(compare_module, "_picture", lambda runs, path: None)
    plain = written(small, tmp_path, 0, record(frechet=2.0))
    text = compare([plain], tmp_path / "out")
    assert "warnings" not in text
    later = written(small, tmp_path, 1, record(frechet=1.0), record(frechet=3.0, memorised=0.9))
    both = written(small, tmp_path, 2, record(frechet=1.0, memorised=0.9, training_images=50))
    text = compare([plain, later, both], tmp_path / "out")
    over_seeds, table, *below = text.split("\n\n")[1:]
    assert over_seeds.splitlines()[0].rstrip(" |").endswith("warnings")
    assert "few pictures (1), copies (2)" in over_seeds
    marks = [line.rstrip(" |").rpartition("| ")[2] for line in table.splitlines()[2:]]
    assert marks[1:] == ["copies", "few pictures, copies"]
    assert "copies" not in table.splitlines()[2]
    assert [line.partition(":")[0] for line in below] == list(WARNINGS)
    assert all("stop earlier" in line for line in below)


def test_tables_over_seeds_compare_last_evaluations_too(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "_picture", lambda runs, path: None)
    runs = []
    for arm, values in {"none": (3.0, 4.0), "a": (1.0, 9.0)}.items():
        for seed in (0, 1):
            records = [record(frechet=value + seed) for value in values]
            path = written(small, tmp_path / arm, seed, *records)
            Run(path).write_settings(small(f"seed={seed}", f"arm={arm}", arm="none").dump())
            runs.append(path)
    header, _, none, a = compare(runs, tmp_path / "out").split("\n\n")[1].splitlines()
    names, first, other = ([x.strip() for x in line.split("|")] for line in (header, none, a))
    less = "less none at the same seed"
    assert other[names.index(f"best, {less}")] == "-2.000 (-2.000 to -2.000)"
    assert other[names.index(f"last, {less}")] == "+5.000 (+5.000 to +5.000)"
    assert first[names.index(f"last, {less}")] == ""

"""The benchmark that fits the discriminator to the teacher alone."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from sklearn.decomposition import PCA

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("share", BENCHMARKS / "explained_share.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


def cells(
    benchmark: ModuleType, classifier: Path, out: Path, *students: str, steps: int = 2
) -> list[dict[str, float]]:
    """Runs the benchmark on digits and returns the cells in its file."""
    benchmark.main(
        [
            *("--out", str(out), "--data", "{source: digits, num_images: 200}"),
            *("--teacher", f"{{name: classifier, weights: {classifier}}}"),
            *("--normalizations", "standardize", "--students", *students),
            *("--ch", "2", "--steps", str(steps)),
        ]
    )
    return [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]


def test_a_stopped_benchmark_is_continued(
    benchmark: ModuleType,
    classifier: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = "pooled+batch+vkd", "head+none+fitnets"
    alone = cells(benchmark, classifier, out, first)
    both = cells(benchmark, classifier, out, first, second)
    assert [cell["student"] for cell in both] == [first, second]
    assert both[0] == alone[0]
    rows = capsys.readouterr().out
    monkeypatch.setattr(benchmark, "run", None)  # all cells are finished
    assert cells(benchmark, classifier, out, first, second) == both
    assert capsys.readouterr().out in rows


def test_cells_do_not_depend_on_previous_cells(
    benchmark: ModuleType, classifier: Path, tmp_path: Path
) -> None:
    students = "pooled+batch+vkd", "head+none+fitnets"
    one_after_another = cells(benchmark, classifier, tmp_path / "together", *students)
    for student, cell in zip(students, one_after_another, strict=True):
        assert cells(benchmark, classifier, tmp_path / student, student) == [cell]


def test_longer_training_explains_more(benchmark: ModuleType, classifier: Path, out: Path) -> None:
    student = "pooled+batch+vkd"
    cells(benchmark, classifier, out, student, steps=1)
    short, long = cells(benchmark, classifier, out, student, steps=60)
    assert long["share"] > short["share"] + 0.1
    assert long["R^2"] <= long["share"] < long["rank"] < 1


def test_ridge_and_rank_shares_match_known_cases(benchmark: ModuleType) -> None:
    torch.manual_seed(0)
    features, noise = torch.randn(400, 5), torch.randn(400, 8)
    linear = 100 * features @ torch.randn(5, 8) + 3
    old, new = slice(300), slice(300, None)

    def share(target: torch.Tensor) -> float:
        return benchmark.ridge_share(features[old], target[old], features[new], target[new])

    assert share(linear) == pytest.approx(1, abs=1e-4)
    assert -0.1 < share(noise) < 0.05
    features = torch.cat([features, torch.zeros(400, 1)], 1)
    features[0, -1], features[new, -1] = 1e-4, 1  # nearly always zero in training
    assert share(linear) == pytest.approx(1, abs=1e-4)
    assert benchmark.rank_share(linear, 5) == pytest.approx(1)
    ratios = PCA().fit(noise.numpy()).explained_variance_ratio_
    assert benchmark.rank_share(noise, 3) == pytest.approx(ratios[:3].sum(), rel=1e-5)


def test_every_arm_of_the_step_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    step = importlib.import_module("step")
    for arm in step.ARMS.values():
        assert (step.build(arm, "cpu").distillation is None) == (arm is None)


def test_bytes_are_those_of_what_is_neither_a_view_nor_a_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    floor = importlib.import_module("floor")
    a, b = torch.ones(5, 4), torch.ones(4, 5, requires_grad=True)
    with floor.Bytes() as moved:
        product = (a @ b).view(25)
        assert moved.total == 0
        torch.exp(product)
    assert moved.total == 2 * 25 * 4
    operations, gigabytes = floor.counted(lambda: (a @ b).sum().backward())
    assert operations == pytest.approx(2 * 2 * 4 * 25 / 1e9)
    assert gigabytes > 0

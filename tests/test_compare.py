import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.stats import kendalltau, ttest_rel

from gan_vkd.evaluation.record import evaluation
from gan_vkd.exchange import export_generator, import_generator
from gan_vkd.game.settings import load_settings
from gan_vkd.report import compare as compare_module
from gan_vkd.report.compare import compare
from gan_vkd.run import Run
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.training import train
from tests.conftest import MakeSettings, Trained, config_of, evaluator_of


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables only, for tests that do not look at samples.png, which takes a second."""
    monkeypatch.setattr(compare_module, "_picture", lambda runs, path: None)


def test_the_table_has_the_recorded_values(small: MakeSettings, tmp_path: Path) -> None:
    folders = [tmp_path / arm for arm in ("none", "whitening")]
    for folder in folders:
        train(small("evaluate.every=2", arm=folder.name), folder)
    text = compare(folders, tmp_path / "out")
    assert (tmp_path / "out" / "table.md").read_text() == text + "\n"
    assert text.startswith("FD(classifier) of 20 samples to heldout (297 images)")
    assert "FID" not in text

    with open(tmp_path / "out" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == ["none", "whitening"]
    for row, folder in zip(rows, folders, strict=True):
        measured = evaluations(folder)
        distances = [r["judges"][0]["frechet"] for r in measured]
        assert float(row["FD(classifier), best"]) == pytest.approx(min(distances), abs=5e-4)
        assert float(row["last"]) == pytest.approx(distances[-1], abs=5e-4)
        assert row["first"] == f"{distances[0]:.3f} (2)"
        assert (
            int(row["at iteration"].split()[0])
            == measured[distances.index(min(distances))]["iteration"]
        )

    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert picture.width > picture.height > 500


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [record for record in Run(folder).records("metrics") if "judges" in record]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.usefixtures("no_picture")
def test_the_table_has_the_spread_over_seeds_and_paired_differences(
    trained: Trained, tmp_path: Path
) -> None:
    folders = [trained(*own, arm=arm) for arm in ("none", "whitening") for own in ((), ("seed=1",))]
    lines = compare(folders, tmp_path / "out").splitlines()
    none, whitening = cells(lines[4]), cells(lines[5])
    measured = [[r["judges"][0]["frechet"] for r in evaluations(folder)] for folder in folders]
    last, best = [m[-1] for m in measured], [min(m) for m in measured]
    assert none[:2] == ["none", "2"]
    assert none[2] == f"{np.mean(best[:2]):.3f} ± {np.std(best[:2], ddof=1):.3f}"
    assert none[3] == f"{np.mean(last[:2]):.3f} ± {np.std(last[:2], ddof=1):.3f}"
    assert none[4] == f"{min(last[:2]):.3f} to {max(last[:2]):.3f}"
    assert none[5] == ""
    difference = ttest_rel(best[2:], best[:2])
    low, high = difference.confidence_interval(0.95)
    mean = np.mean(best[2:]) - np.mean(best[:2])
    assert whitening[5] == f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
    assert "published" not in "".join(lines)
    header = cells(lines[2])
    copied = [r["memorised"] for f in folders[:2] for r in evaluations(f)
              if r["judges"][0]["frechet"] == min(measured[folders.index(f)])]  # fmt: skip
    shown = none[header.index("memorised")]
    assert shown == f"{np.mean(copied):.3f} ± {np.std(copied, ddof=1):.3f}"
    seconds = [Run(f).records("metrics")[-1]["seconds"] / 6 for f in folders[:2]]
    assert float(none[header.index("ms / iteration")]) == pytest.approx(
        1000 * np.mean(seconds), abs=1
    )

    text = compare(folders[:3], tmp_path / "out", baseline="whitening")
    none, whitening = (cells(line) for line in text.splitlines()[4:6])
    assert none[5] == f"{best[0] - best[2]:+.3f}"
    assert whitening[2] == f"{best[2]:.3f}"


@pytest.mark.usefixtures("no_picture")
def test_published_figures_are_shown_for_matching_settings_only(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        compare_module, "published_fid", lambda s: 13.16 if s.distill is not None else None
    )
    compare([trained(arm="none"), trained(arm="whitening")], tmp_path / "out")
    with open(tmp_path / "out" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["published FID"] for row in rows] == ["", "13.16"]


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("arm", ["none", "spkd"])
def test_a_run_of_a_published_config_is_shown_with_the_published_figure(
    arm: str, tmp_path: Path
) -> None:
    settings = load_settings(config_of("cifar10_10pct", arm))
    run = Run(tmp_path / "run")
    run.write_settings(settings.dump())
    measures = {"FID(legacy_tensorflow)": 12.5, "KID(legacy_tensorflow)": 0.01}
    facts = {"features": settings.evaluate.features.name, "reference": "heldout",
             "reference_images": 10_000, "num_samples": 10_000, "seconds": 7.0}  # fmt: skip
    run.append("metrics", {"iteration": settings.train.iterations} | facts | measures)
    text = compare([run.path], tmp_path / "out")
    assert text.startswith("FID(legacy_tensorflow) of 10,000 samples to heldout")
    row = cells(text.splitlines()[-1])
    assert "12.500" in row
    assert row[-1] == {"none": "23.34", "spkd": "19.11"}[arm]


@pytest.mark.usefixtures("no_picture")
def test_runs_evaluated_differently_get_separate_tables(
    small: MakeSettings, trained: Trained, tmp_path: Path
) -> None:
    train(small("evaluate.num_samples=30", arm="none"), tmp_path / "b")
    text = compare([trained(arm="none"), tmp_path / "b"], tmp_path / "out")
    assert "of 20 samples" in text
    assert "of 30 samples" in text
    assert text.count("| arm") == 2


@pytest.mark.usefixtures("no_picture")
def test_runs_on_other_data_get_another_table_and_duplicates_are_refused(
    small: MakeSettings, trained: Trained, tmp_path: Path
) -> None:
    train(small("data.num_images=90", "seed=1", arm="none"), tmp_path / "b")
    text = compare([trained(arm="none"), tmp_path / "b"], tmp_path / "out")
    assert "trained on digits, 100 images" in text
    assert "trained on digits, 90 images" in text
    assert "±" not in text
    with pytest.raises(VkdError, match="two runs of arm none at seed 0"):
        compare([trained(arm="none")] * 2, tmp_path / "out")


@pytest.mark.usefixtures("no_picture")
def test_an_imported_generator_is_compared_by_its_evaluation(
    small: MakeSettings, trained: Trained, tmp_path: Path
) -> None:
    export_generator(trained(arm="none"), tmp_path / "G.pth")
    settings = small("seed=1", "arm=published", arm="none")
    import_generator(tmp_path / "G.pth", settings, tmp_path / "imported")
    with pytest.raises(VkdError, match="no evaluation yet"):
        compare([tmp_path / "imported"], tmp_path / "out")
    run = Run(tmp_path / "imported")
    generator, facts = run.load_generator("cpu")
    found = evaluator_of(settings)(generator, facts["shares"])
    (judge,) = found["judges"]
    names = {"name": "cifar_resnet20", "frechet_name": "FD(cifar_resnet20)"}
    run.append("evaluations", found | {"judges": [judge | names | {"frechet": 1.0}]})
    run.append("evaluations", {"iteration": 0} | found)
    text = compare([trained(arm="none"), tmp_path / "imported"], tmp_path / "out")
    (row,) = [line for line in text.splitlines() if line.startswith("| published")]
    assert f"{judge['frechet']:.3f}" in row
    assert row.rstrip("| ").endswith("nan")


FIRST, OTHER = "FD(classifier)", "FD(classifier@16)"
ARMS = {"none": [(5, 50), (3, 30)], "a": [(4, 20), (2, 10)], "b": [(1, 40), (6, 60)]}


def judged(
    small: MakeSettings, folder: Path, arm: str, seed: int, distances: list[tuple[float, float]]
) -> Path:
    """Writes a run with evaluations by two judges, in the format of version 0.1."""
    run = Run(folder / f"{arm}{seed}")
    run.write_settings(small(f"seed={seed}", f"arm={arm}", arm="none").dump())
    judges = [
        {"name": name[3:-1], "identity": name, "frechet": name, "kernel": f"K{name[1:]}"}
        for name in (FIRST, OTHER)
    ]
    facts = {"features": "classifier", "judge": FIRST, "judges": judges, "reference": "heldout",
             "reference_images": 297, "num_samples": 20, "seconds": 7.0}  # fmt: skip
    for iteration, (one, other) in enumerate(distances, 1):
        found = {FIRST: one, OTHER: other, "KD(classifier)": 0.0, "KD(classifier@16)": 0.0}
        run.append("metrics", {"iteration": iteration} | facts | found)
    return run.path


@pytest.mark.usefixtures("no_picture")
def test_every_judge_has_its_columns_and_rankings_are_compared(
    small: MakeSettings, tmp_path: Path
) -> None:
    shifts = {0: 0.0, 1: 0.5}
    runs = [
        judged(small, tmp_path, arm, seed, [(x + shift, y + 10 * shift) for x, y in distances])
        for seed, shift in shifts.items()
        for arm, distances in ARMS.items()
    ]
    text = compare(runs, tmp_path / "out")
    lines = text.splitlines()
    assert lines[0].startswith(f"{FIRST}, {OTHER} of 20 samples")
    assert f"the best evaluation is the best by {FIRST}" in lines[0]
    header = cells(lines[2])
    spread = {cells(line)[0]: dict(zip(header, cells(line), strict=True)) for line in lines[4:7]}
    assert spread["none"][f"{OTHER} at the best"] == "32.500 ± 3.536"
    assert spread["b"][f"{OTHER} at the best"] == "42.500 ± 3.536"
    assert spread["b"][f"{OTHER}, last"] == "62.500 ± 3.536"
    less = "less none at the same seed"
    assert spread["b"][f"{OTHER} at the best, {less}"] == "+10.000 (+10.000 to +10.000)"
    assert spread["b"][f"best, {less}"] == "-2.000 (-2.000 to -2.000)"
    with open(tmp_path / "out" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(r[f"{OTHER} at the best"], r[f"{OTHER}, last"]) for r in rows[:3]] == [
        ("30.000", "30.000"), ("10.000", "10.000"), ("40.000", "60.000"),
    ]  # fmt: skip
    assert lines[-1].startswith(f"Kendall's tau of {FIRST} and {OTHER}")
    assert "3 arms: +1.00" in lines[-1]


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("last", [(60, 30, 10), (10, 60, 30)])
def test_agreement_of_judges_is_kendalls_tau_of_three_or_more_arms(
    last: tuple[float, ...], small: MakeSettings, tmp_path: Path
) -> None:
    first = (1.0, 2.0, 3.0)
    runs = [
        judged(small, tmp_path, arm, 0, [(x, y)])
        for arm, x, y in zip(ARMS, first, last, strict=True)
    ]
    tau, p = kendalltau(first, last)
    line = compare(runs, tmp_path / "out").splitlines()[-1]
    assert f"3 arms: {tau:+.2f} (p = {p:.3f})" in line
    assert "Kendall" not in compare(runs[:2], tmp_path / "out")


@pytest.mark.usefixtures("no_picture")
def test_earlier_evaluations_in_another_mode_are_left_out(
    small: MakeSettings, tmp_path: Path
) -> None:
    """A resumed run, whose first evaluation by an earlier version used running statistics."""
    path = judged(small, tmp_path, "none", 0, [(1, 1)])
    run, (old,) = Run(path), Run(path).records("metrics")
    run.append("metrics", old | {"iteration": 2, FIRST: 2.0, "batch_norm": "standing"})
    text = compare([path], tmp_path / "out")
    assert "sampled with standing batch-norm statistics" in text
    assert "2.000 (2)" in text


def test_records_of_all_versions_are_read_alike(tmp_path: Path) -> None:
    taken = {"iteration": 4, "seconds": 7.0, "reference": "heldout", "reference_images": 297,
             "num_samples": 20, "batch_norm": "standing", "precision": 0.5}  # fmt: skip
    names = {"frechet_name": FIRST, "kernel_name": "KD(classifier)"}
    now = {"name": "classifier", "identity": "5e", "frechet": 3.0, "kernel": 0.25} | names
    keys = {FIRST: 3.0, "KD(classifier)": 0.25, "features": "classifier", "judge": "5e"}
    before = {"name": "classifier", "identity": "5e", "frechet": FIRST, "kernel": "KD(classifier)"}
    expected = taken | {"judges": [now]} | {FIRST: 3.0, "KD(classifier)": 0.25}
    assert evaluation(taken | {"judges": [now]}, tmp_path) == expected
    assert evaluation(taken | keys | {"judges": [before]}, tmp_path) == expected | keys
    first = {k: v for k, v in now.items() if k != "name"}
    assert evaluation(taken | keys, tmp_path) == expected | keys | {"judges": [first]}


def test_an_invalid_number_is_named(tmp_path: Path) -> None:
    judge = {"identity": "", "frechet_name": FIRST, "kernel_name": "KD", "kernel": 0.0}
    taken = {"iteration": 4, "reference": "x", "reference_images": 2, "num_samples": 2}
    for odd in ("much", float("nan"), None, [1.0]):
        with pytest.raises(VkdError, match=r"FD\(classifier\) is not a finite number"):
            evaluation(taken | {"judges": [judge | {"frechet": odd}]}, tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({FIRST: "much"}, "is not a finite number"),
        ({FIRST: float("nan")}, "is not a finite number"),
        ({"iteration": "last"}, "iteration: "),
        ({"iteration": 10**400}, "iteration: "),
        ({"num_samples": None}, "num_samples: "),
        ({"judges": [5]}, "judges.0: "),
        ({"judges": []}, "judges: "),
        ({"judges": [{"frechet": "FD(other)", "kernel": "KD(other)", "identity": ""}]},
         "FD(other) is not a finite number"),
        ({"batch_norm": ["batch"]}, "batch_norm: "),
        ({"seconds": "long"}, "seconds: "),
        ({"precision": [1]}, "precision is not a finite number"),
        ({"judges": [{"frechet_name": "batch_norm", "kernel_name": "judges", "identity": "",
                      "frechet": 1.0, "kernel": 1.0}]}, "batch_norm is no name of a distance"),
    ],
)  # fmt: skip
def test_invalid_records_are_a_one_line_error(
    small: MakeSettings, tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    path = judged(small, tmp_path, "none", 0, [(1, 1)])
    (old,) = Run(path).records("metrics")
    (path / "metrics.jsonl").write_text("")
    Run(path).append("metrics", old | change)
    with pytest.raises(VkdError) as caught:
        compare([path], tmp_path / "out")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path / 'metrics.jsonl'}: not a file of this project: ")
    assert fault in line


def test_names_of_strangers_are_text_in_the_tables_and_the_picture(
    small: MakeSettings, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    odd = "=1|$\\frac$ 日本語 " + "x" * 100
    train(small(f"arm={odd}"), tmp_path / "run")
    (old,) = (r for r in evaluations(tmp_path / "run") if r["iteration"] == 6)
    judge = old["judges"][0] | {"frechet_name": "@F|\nD\x1b"}
    Run(tmp_path / "run").append("metrics", old | {"judges": [judge], "reference": "a\n\n| b |"})
    text = compare([tmp_path / "run"], tmp_path / "out")
    assert len(text.splitlines()) == 5
    assert text.startswith("@F|\\nD\\x1b of 20 samples to a\\n\\n| b | (297")
    header, _, row = text.splitlines()[2:]
    assert header.replace("\\|", "").count("|") == row.replace("\\|", "").count("|")
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        (first,) = csv.DictReader(file)
    assert first["arm"] == f"'{odd}"
    assert "'@F|\\nD\\x1b, best" in first
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert picture.width < 700
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


@pytest.mark.parametrize("arm", ["", "x" * 201, "a\nb", "a\x1b[2J", "\u202eabc"])
def test_arms_that_are_no_names_are_refused(arm: str, small: MakeSettings, tmp_path: Path) -> None:
    stored = yaml.safe_load(small().dump())
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(stored | {"arm": arm}))
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path / 'settings.yaml'}: arm = ")
    assert line.endswith(": expected 1 to 200 printable characters")
    assert line.isprintable()


def test_folders_without_runs_or_evaluations_are_refused(
    small: MakeSettings, tmp_path: Path
) -> None:
    with pytest.raises(VkdError, match="not a run folder"):
        compare([tmp_path], tmp_path / "out")
    Run(tmp_path / "new").write_settings(small().dump())
    with pytest.raises(VkdError, match="no evaluation yet"):
        compare([tmp_path / "new"], tmp_path / "out")

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_vkd.compare import compare
from gan_vkd.errors import VkdError
from gan_vkd.run import Run
from gan_vkd.training import train
from tests.conftest import MakeSettings


def test_the_table_repeats_what_the_runs_recorded(small: MakeSettings, tmp_path: Path) -> None:
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
        measured = [r for r in Run(folder).records("metrics") if "FD(classifier)" in r]
        distances = [r["FD(classifier)"] for r in measured]
        assert float(row["FD(classifier), best"]) == pytest.approx(min(distances), abs=5e-4)
        assert float(row["last"]) == pytest.approx(distances[-1], abs=5e-4)
        assert row["first"] == f"{distances[0]:.3f} (2)"
        assert (
            int(row["at iteration"].split()[0])
            == measured[distances.index(min(distances))]["iteration"]
        )

    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert picture.width > picture.height > 500


def test_the_spread_over_seeds(small: MakeSettings, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("none0", "none1", "whitening0")]
    for folder in folders:
        arm, seed = folder.name[:-1], folder.name[-1]
        train(small(f"seed={seed}", arm=arm), folder)
    text = compare(folders, tmp_path / "out")
    lines = text.splitlines()
    none, whitening = lines[4:6]
    last = [Run(folder).records("metrics")[-1]["FD(classifier)"] for folder in folders]
    mean, deviation = np.mean(last[:2]), np.std(last[:2], ddof=1)
    assert none.split("|")[4].strip() == f"{mean:.3f} ± {deviation:.3f}"
    assert none.split("|")[5].strip() == f"{min(last[:2]):.3f} to {max(last[:2]):.3f}"
    assert whitening.split("|")[4].strip() == f"{last[2]:.3f}"
    assert text.count("| none ") == 3  # its spread and its two runs


def test_runs_measured_differently_are_not_put_in_one_table(
    small: MakeSettings, tmp_path: Path
) -> None:
    train(small(arm="none"), tmp_path / "a")
    train(small("evaluate.num_samples=30", arm="none"), tmp_path / "b")
    text = compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert "of 20 samples" in text
    assert "of 30 samples" in text
    assert text.count("| arm") == 2


def test_folders_that_are_no_runs(small: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(VkdError, match="not a run folder"):
        compare([tmp_path], tmp_path / "out")
    Run(tmp_path / "new").write_settings(small())
    with pytest.raises(VkdError, match="no evaluation yet"):
        compare([tmp_path / "new"], tmp_path / "out")

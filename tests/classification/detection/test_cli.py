"""The command line of detection: a sweep, predictions, and the table of a comparison."""

import json
import subprocess
from pathlib import Path

import pytest

from classification.detection.cli import main
from classification.detection.compare import compare
from classification.detection.run import Run
from gan_vkd.runtime.errors import VkdError
from gan_vkd.sweep import local
from tests.classification.detection.conftest import MakeDetection
from tests.processes import Forked, called


def vkd_detect(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return called(main, *arguments)


def test_a_sweep_prints_a_table_and_its_runs_predict(
    tiny_detection: MakeDetection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "start", lambda job, environment: Forked(job.command, job.log))
    configs = []
    for arm in ("plain", "vkd"):
        configs.append(tmp_path / f"{arm}.yaml")
        configs[-1].write_text(tiny_detection("train.epochs=1", arm=arm).dump())
    out = tmp_path / "out"
    swept = vkd_detect("sweep", *configs, "distill.weight=2", "--out", out, "--target", 0)
    assert swept.returncode == 0, swept.stderr
    assert "updates to AP50 0" in swept.stdout
    assert Run(out / "vkd_seed0").settings().distill.weight == 2
    images = Path(Run(out / "vkd_seed0").settings().data.root) / "made"
    predicted = vkd_detect("predict", out / "vkd_seed0", images, "--out", tmp_path / "drawn")
    assert predicted.returncode == 0, predicted.stderr
    assert len(json.loads((tmp_path / "drawn" / "detections.json").read_text())) == 6 * 24
    missing = vkd_detect("evaluate", tmp_path / "none")
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1


def write_run(folder: Path, settings: str, aps: list[tuple[int, float]]) -> Path:
    run = Run(folder)
    run.write_settings(settings)
    for iteration, ap in aps:
        record = {"iteration": iteration, "epoch": iteration / 10, "AP": ap, "AP50": 2 * ap}
        run.append("metrics", record | {"AP75": ap, "images": 6, "images_per_second": 3.0})
    return folder


def test_the_table_has_the_updates_until_the_target_ap(
    tiny_detection: MakeDetection, tmp_path: Path
) -> None:
    runs = []
    for arm, later in (("plain", 10), ("vkd", 0)):
        for seed in (0, 1, 2):
            aps = [(10, 5.0 + seed), (20 + later, 26.0 + seed), (50, 30.0 - later)]
            dump = tiny_detection(f"seed={seed}", arm=arm).dump()
            runs.append(write_run(tmp_path / f"{arm}{seed}", dump, aps))
    table = compare(runs, tmp_path / "out")
    assert "30.000 ± 0.000" in table
    assert "+10.000 (+10.000 to +10.000)" in table
    assert "-10.000 (-10.000 to -10.000)" in table  # updates to AP50 50, minus those of plain
    assert (tmp_path / "out" / "curves.png").exists()
    write_run(tmp_path / "slow", tiny_detection("seed=9", arm="vkd").dump(), [(10, 1.0)])
    late = compare([tmp_path / "slow", *runs], tmp_path / "out")
    assert "(of 3 runs)" in late
    lucky = [(10, 5.0), (20, 26.0), (30, 15.0), (40, 27.0), (50, 33.0)]
    once = write_run(tmp_path / "once", tiny_detection(arm="plain").dump(), lucky)
    header, _, row = compare([once], tmp_path / "out").splitlines()[-3:]
    found = dict(
        zip(*([x.strip() for x in line.split("|")] for line in (header, row)), strict=True)
    )
    assert found["updates to AP50 50"] == "20.00"
    assert found["updates to AP50 50, mean of 3"] == "50.00"
    never = compare(runs, tmp_path / "out", target=90.0)
    assert "updates to AP50 90" not in never
    with pytest.raises(VkdError, match="two runs of arm plain at seed 0"):
        compare([runs[0], runs[0]], tmp_path / "out")
    with pytest.raises(VkdError, match="no evaluation yet"):
        compare([write_run(tmp_path / "new", tiny_detection().dump(), [])], tmp_path / "out")

"""The components of docs/extend.md: their own tests, and training with all of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gan_vkd.runtime.settings_file import merged_trees
from tests.documents import ROOT, blocks
from tests.plugins import install, vkd

PAGE = ROOT / "docs/extend.md"
CODE = "\n".join(blocks(PAGE, "python"))
FRAGMENTS = [yaml.safe_load(block) for block in blocks(PAGE, "yaml")]

RUN_TESTS = (
    "import own_components\n"
    "for name, value in vars(own_components).items():\n"
    "    if name.startswith('test_'):\n"
    "        value()\n        print(name)\n"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return install(tmp_path_factory.mktemp("own") / "site", CODE)


def test_the_tests_of_the_page_pass(installed: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN_TESTS],
        capture_output=True, text=True, env=installed, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        word.partition("(")[0] for word in CODE.split() if word.startswith("test_")
    ]


def test_all_of_them_train_together(installed: dict[str, str], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"arm": "mine"}
    for fragment in FRAGMENTS:
        settings = merged_trees(settings, fragment)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    loss = yaml.safe_dump(FRAGMENTS[0]["distill"]["method"], default_flow_style=True).strip()
    commands = [
        ["train", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / run), *overrides]
        for run, overrides in {"vkd": [], "cka": [f"distill.method={loss}"]}.items()
    ]
    for code, errors in vkd(installed, *commands):
        assert code == 0, errors
    records = (tmp_path / "vkd" / "metrics.jsonl").read_text().splitlines()
    assert any("mean_shift" in str(json.loads(record)) for record in records)
    assert "distill_loss" in (tmp_path / "cka" / "log.txt").read_text()

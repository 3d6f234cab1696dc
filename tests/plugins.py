"""Packages with components of their own, and commands in an environment that has them."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

CALLS = (
    "import json, sys\nfrom gan_vkd.cli import main\nfrom tests.processes import called\n"
    "ended = [called(main, *words) for words in json.loads(sys.argv[1])]\n"
    "print(json.dumps([(e.returncode, e.stderr) for e in ended]))\n"
)


def install(site: Path, code: str) -> dict[str, str]:
    """Installs a package with a module of components into a folder; returns an environment that has
    it."""
    info = site / "own_components-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "own_components.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-components\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gan_vkd.components]\nown = own_components\n")
    return os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}


def vkd(environment: dict[str, str], *commands: list[str]) -> list[tuple[int, str]]:
    """Exit codes and errors of commands, all in one new process."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(commands)],
        stdout=subprocess.PIPE, text=True, env=environment, timeout=300, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)

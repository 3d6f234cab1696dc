"""Measures training on one GPU and writes one Markdown file: see benchmarks/gpu.sh.

    python benchmarks/gpu.py OUT [--seconds 530] [--shared ../shared] [--device cuda]

Every part has a process and a share of the time of its own; the file is written after each part.
On a machine without a GPU: --device cpu --tiny, which tests this program.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from at_once import rates
from gpu_parts import cuda_tests, evaluation, kernels, machine, ours, published, steady
from gpu_report import report
from gpu_setup import BEST, COMPILED, MEASURED, ROOT, VARIANTS, Setup
from jobs import Job, run

from gan_vkd.runtime.files import write_text
from gan_vkd.sweep import mps

TINY: dict[str, Any] = {
    "ch": 2, "batch": 4, "images": 40, "samples": 60, "matrix": 64, "seconds": 0.02, "period": 1,
}  # fmt: skip


def jobs(setup: Setup) -> list[Job]:
    """The parts, the most important ones first, with the most seconds that each may take."""
    counts = [1, 2, 4]
    steps = [
        Job(f"{arm}, {variant}", ours, (setup, arm, variant), 150 if variant == COMPILED else 50)
        for arm, variant in MEASURED
    ]
    of_teacher = 2 * len(VARIANTS)  # where the slowest begin, those of the last arm
    return [
        Job("machine", machine, (setup,), 60),
        Job("tests", cuda_tests, (120.0,), 130),
        Job("published", published, (setup,), 60),
        *steps[:of_teacher],
        Job("steady state", steady, (setup,), 110),
        Job("evaluation", evaluation, (setup,), 80),
        Job("runs at once, without MPS", rates, (setup, counts, False), 80),
        Job("runs at once, with MPS", rates, (setup, counts, True), 80),
        Job(f"kernels, {BEST}", kernels, (setup, BEST), 50),
        Job("kernels, published", kernels, (setup, "published"), 50),
        *steps[of_teacher:],
    ]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the folder of the files")
    parser.add_argument("--seconds", type=float, default=530, help="for all parts together")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tests this program")
    given = parser.parse_args(arguments)
    until = time.monotonic() + given.seconds
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("gpu: no CUDA device can be used; --device cpu --tiny tests this program")
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        setup = Setup(given.device, Path(scratch), given.shared, **TINY if given.tiny else {})
        results: dict[str, dict[str, Any]] = {}
        call = f"benchmarks/gpu.py {shlex.join(arguments)}"
        try:
            for name, result in run(jobs(setup), until):
                results[name] = result
                said = result.get("error", "measured")
                print(f"{name}: {said}, {result.get('took', 0):.0f} s", flush=True)
                write_text(given.out / "gpu.json", json.dumps(results, indent=1) + "\n")
                write_text(given.out / "gpu.md", report(results, setup, call, _commit()))
        finally:
            mps.end(setup.scratch / "mps")  # of a part that was stopped
    print((given.out / "gpu.md").read_text())


def _commit() -> str:
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


if __name__ == "__main__":
    main(sys.argv[1:])

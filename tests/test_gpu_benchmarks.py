"""The benchmarks for one GPU at the smallest sizes, on the CPU."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gan_vkd.game.settings import load_settings
from tests.conftest import MakeSettings, until
from tests.test_scripts import bash

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def gpu() -> ModuleType:
    return importlib.import_module("gpu")


@pytest.fixture
def setup(gpu: ModuleType, tmp_path: Path) -> Any:
    """Sizes of a test, without data and weights."""
    return gpu.Setup("cpu", tmp_path, tmp_path / "nothing", **gpu.TINY)


def test_a_job_that_fails_dies_or_hangs_loses_only_its_own_result() -> None:
    jobs = importlib.import_module("jobs")
    calls = {
        "raises": (int, ("x",)), "dies": (os._exit, (3,)), "hangs": (time.sleep, (600,)),
        "works": (dict, ({"answer": 42},)),
    }  # fmt: skip
    listed = [jobs.Job(name, call, given, 20) for name, (call, given) in calls.items()]
    listed[2] = listed[2]._replace(seconds=1.0)
    found = dict(jobs.run(listed, time.monotonic() + 120))
    assert list(found) == list(calls)
    assert found["raises"]["error"].startswith("ValueError: invalid literal")
    assert found["dies"]["error"] == "its process ended with exit code 3"
    assert found["hangs"]["error"] == "stopped after 1 s"
    assert found["works"]["answer"] == 42
    late = jobs.run(listed, time.monotonic())
    assert {result["error"] for _, result in late} == {"not started: no time was left"}


def test_laps_are_those_of_a_run(small: MakeSettings, tmp_path: Path) -> None:
    laps = importlib.import_module("laps")
    seen: list[int] = []

    def at_lap(game: Any, now: int) -> None:
        seen.append(now)
        if now == 6:
            raise laps.Enough

    laps.train(small("train.iterations=100", "evaluate.every=100"), tmp_path, 2, at_lap)
    assert seen == [2, 4, 6]
    found = laps.pace(
        small("train.iterations=100", "evaluate.every=100"), tmp_path, 2, 0.0,
        lambda game: {"arm": game.settings.arm},
    )  # fmt: skip
    assert found["iterations"] == 2
    assert found["iteration"] == pytest.approx(1000 * found["seconds"] / 2)
    assert found["arm"] == "whitening"


def test_the_report_has_what_was_measured_and_why_the_rest_was_not(
    gpu: ModuleType, setup: Any
) -> None:
    parts = importlib.import_module("gpu_parts")
    results = {
        "machine": parts.machine(setup), "published": parts.published(setup),
        "kernels, published": parts.kernels(setup, "published"),
        "no distillation, bfloat16": {"iteration": 2.0, "d_step": 0.4, "g_step": 0.4},
        "cached features, tf32": {"error": "stopped after 50 s"},
        "steady state": {"seconds": 60.0, "iterations": 6000, "iteration": 10.0},
        "evaluation": {"evaluations": [9.0, 6.0], "judges": ["FD(x)"], "samples": 60},
        "runs at once, with MPS": {"rates": {"1": 100.0, "2": 150.0}},
    }  # fmt: skip
    assert 0 < results["published"]["tflop"] < 1e-3
    text = gpu.report(results, setup, "command", "abc")
    assert text == gpu.report(json.loads(json.dumps(results)), setup, "command", "abc")
    speed = f"{results['published']['iteration'] / 2:.2f}"
    (row,) = [line for line in text.splitlines() if "no distillation     | bfloat16  " in line]
    assert row.split("|")[-2].strip() == speed
    for said in (
        "- cached features, tf32: stopped after 50 s",
        "tests: not measured yet",
        "20.8 minutes for 125,000 iterations, 24.0 with 32 evaluations of 6.0 s",
        "| 2    | with MPS | 150.00       | 2,400    | 1.50       |",
        "without MPS: not measured yet",
        "published: ",
    ):
        assert said in text, said


def test_runs_are_timed_alone_and_at_once(gpu: ModuleType, setup: Any) -> None:
    parts, at_once = (importlib.import_module(name) for name in ("gpu_parts", "at_once"))
    found = parts.ours(setup, "teacher in the loop", "float32")
    assert {"iteration", "d_step", "g_step", "tflop"} <= found.keys()
    assert at_once.rates(setup, [1], mps=False)["rates"]["1"] > 0


def test_a_compiled_run_compiles_both_networks_once(
    gpu: ModuleType, setup: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, asked = importlib.import_module("gpu_parts"), list[Any]()
    monkeypatch.setattr("torch.compile", lambda call, dynamic: asked.append(call) or call)
    found = parts.ours(setup, "no distillation", "bfloat16, graph, compiled")
    assert found["iteration"] > 0
    assert [type(call.__self__).__name__ for call in asked] == ["Generator", "Discriminator"]


def test_gpu_writes_its_files_when_time_is_over(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--tiny", "--seconds", "0"]
    answer = bash("../benchmarks/gpu.sh", str(tmp_path), *arguments, SHARED="/nothing")
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "gpu.md").read_text().strip() in answer.stdout
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert {found["error"] for found in results.values()} == {"not started: no time was left"}


def test_gpu_says_in_one_line_that_there_is_no_gpu(tmp_path: Path) -> None:
    answer = bash("../benchmarks/gpu.sh", str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].startswith("gpu: no CUDA device can be used")


@pytest.fixture
def study(tmp_path: Path) -> dict[str, str]:
    """Environment of gpu_study.sh whose `vkd` logs its arguments and pretends to sweep, at 0.2 s
    per iteration."""
    asked, folder, shared = tmp_path / "asked", tmp_path / "bin", tmp_path / "shared"
    for file in importlib.import_module("gpu_setup").NEEDED:
        (shared / file).parent.mkdir(parents=True, exist_ok=True)
        (shared / file).touch()
    folder.mkdir()
    (folder / "vkd").write_text(f"""#!{sys.executable}
import json, pathlib, shlex, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
open({str(asked)!r}, "a").write(shlex.join(sys.argv[1:]) + "\\n")
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
if pathlib.Path({str(tmp_path / "wait")!r}).exists():
    signal.sigwait({{signal.SIGTERM}})
    sys.exit(open({str(asked)!r}, "a").write("stopped\\n"))
judges = [{{"frechet_name": "FD(x)", "kernel_name": "KD(x)", "frechet": 9.0, "kernel": 1.0}}]
records = [{{"iteration": i, "seconds": i / 5, "real_score": 1.0}} for i in (50, 100)]
records.append({{"iteration": 100, "seconds": 20, "judges": judges}})
for arm in (pathlib.Path(item).name for item in sys.argv if item.startswith("recipe/")):
    run = out / f"{{arm}}_seed0"
    run.mkdir(parents=True, exist_ok=True)
    (run / "settings.yaml").write_text(f"arm: {{arm}}\\ndata: {{{{source: digits}}}}\\n")
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in records))
for name in ("table.md", "table.csv", "samples.png"):
    (out / name).write_text("the table\\n")
""")
    (folder / "vkd").chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SHARED": str(shared),
        "VIRTUAL_ENV": sys.prefix,
    }


def test_the_study_fits_its_runs_into_the_minutes_and_leaves_five_files(
    study: dict[str, str], tmp_path: Path
) -> None:
    script, out = "../benchmarks/gpu_study.sh", tmp_path / "out"
    call = ["60", str(out), f"runs={tmp_path / 'runs'}", "model.ch=8"]
    answer = bash(script, *call, **study)
    assert answer.returncode == 0, answer.stderr
    _, trial, sweep = (tmp_path / "asked").read_text().splitlines()
    assert "recipe/whitening_pca " in trial
    assert "--seeds 0,1,2,3,4 --jobs 5" in trial
    arms = ["none", "layernorm", "whitening_all", "whitening", "whitening_pca"]
    assert sweep.startswith(f"sweep {' '.join(f'recipe/{arm}' for arm in arms)} --seeds 0 --jobs 5")
    count = int((tmp_path / "runs" / "iterations").read_text())
    assert 15_000 < count < 17_100  # 57 minutes at 0.2 s, without what was started meanwhile
    every = -(-count // 3)
    window = f"train.ema_decay={1 - 20 / count:.6f} train.ema_start={count // 20}"
    assert "model.ch=64 train.d_steps=4" in sweep
    assert f"model.ch=8 train.iterations={count} {window} evaluate.every={every}" in sweep
    files = {"study.md", "table.csv", "samples.png", "curves.png", "curves.csv"}
    assert {file.name for file in out.iterdir()} == files
    assert f"Every run: {count} iterations, 1" in (out / "study.md").read_text()
    assert "\nthe table\n" in (out / "study.md").read_text()

    again = bash(script, "90", *call[1:], **study)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "asked").read_text().splitlines()[3:] == [sweep]


def test_a_signal_to_the_study_stops_its_sweep(study: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "wait").touch()
    script = [str(ROOT / "benchmarks" / "gpu_study.sh"), "60", f"runs={tmp_path / 'runs'}"]
    with subprocess.Popen(["bash", *script], env=os.environ | study) as process:
        until(lambda: (tmp_path / "asked").exists())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert (tmp_path / "asked").read_text().splitlines()[1:] == ["stopped"]


def test_the_arms_of_the_study_differ_in_the_distillation_only() -> None:
    arms = {name: load_settings(Path(f"recipe/{name}")) for name in
            ("none", "layernorm", "whitening_all", "whitening", "whitening_pca")}  # fmt: skip
    for name, settings in arms.items():
        assert settings.arm == name
        changes = {"arm": "none", "distill": None}
        assert settings.model_copy(update=changes) == arms["none"]


def test_packages_that_are_lacking_are_those_of_the_rest() -> None:
    lacking = importlib.import_module("lacking").lacking
    everything = {item.partition("==")[0] for item in lacking(set())}
    assert {"torch", "numpy", "pydantic", "pydantic-core", "clean-fid"} <= everything
    rest = {item.partition("==")[0] for item in lacking(everything - {"pydantic"})}
    assert rest == {"pydantic"}


def test_the_curves_of_runs_are_drawn_and_listed(own_run: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "curves.py"), str(own_run),
         "--out", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    header, *lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert header.startswith("arm,seed,iteration,seconds")
    assert len(lines) == 3  # two iterations and an evaluation
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("script", "arguments", "fault"),
    [
        ("gpu_study.sh", [], "MINUTES=: expected whole minutes for all runs together"),
        ("gpu_study.sh", ["9", "/tmp/x", "jobs=0"], "jobs=0: expected the number of runs at once"),
        ("pack.sh", [], "expected one argument, the folder to write"),
        ("pack.sh", ["/tmp/x"], "/nothing/data/cifar10-subset: no such folder; set SHARED"),
    ],
)
def test_scripts_refuse_invalid_arguments_in_one_line(
    script: str, arguments: list[str], fault: str
) -> None:
    shared = "/nothing" if script == "pack.sh" else str(ROOT.parent / "shared")
    answer = bash(f"../benchmarks/{script}", *arguments, SHARED=shared)
    assert answer.returncode == 2
    assert answer.stderr.splitlines()[-1].endswith(fault)

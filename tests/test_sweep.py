"""Sweeps: plan, validation, parallel runs, failures, signals and logs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gan_vkd import cli
from gan_vkd.game.settings import load_settings
from gan_vkd.run import Run
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.stopping import Stopped
from gan_vkd.sweep import local
from gan_vkd.sweep.local import sweep
from gan_vkd.sweep.plan import Program, plan, read_arguments
from tests.conftest import CONFIGS, until
from tests.conftest import QUICKSTART as ARMS
from tests.fake_run import events
from tests.processes import Forked

ROOT = CONFIGS.parent


# the command line


@pytest.mark.parametrize(
    ("positional", "option", "seeds"),
    [(["1", "2"], ["0"], [0, 1, 2]), ([], ["0,1,2"], [0, 1, 2]), ([], ["0 4"], [0, 4]),
     ([], ["7", "5"], [7, 5]), ([], None, [0])],
)  # fmt: skip
def test_seeds_are_parsed(positional, option, seeds):
    arguments = ["a.yaml", *positional, "b.yaml", "train.iterations=5"]
    expected = [Path("a.yaml"), Path("b.yaml")], seeds, ["train.iterations=5"]
    assert read_arguments(arguments, option) == expected


def test_a_settings_file_may_have_an_equals_sign(tmp_path):
    (tmp_path / "a=b.yaml").write_text("")
    assert read_arguments([str(tmp_path / "a=b.yaml")], ["0"])[0] == [tmp_path / "a=b.yaml"]


@pytest.mark.parametrize(
    ("arguments", "option", "fault"),
    [(["a.yaml", "1"], None, "seeds follow --seeds"), (["a.yaml"], ["one"], "--seeds one"),
     (["a.yaml"], ["0,"], "whole numbers")],
)  # fmt: skip
def test_invalid_seeds_are_refused(arguments, option, fault):
    with pytest.raises(SettingsError, match=fault):
        read_arguments(arguments, option)


# the plan


def test_ignored_overrides_are_reported_once(program, out, capsys):
    plan(program, ARMS, [3, 1], out, ["distill.weight=2", "model.ch=4"])
    notice = "quickstart: distill.weight=2 is ignored, since it does not apply to this arm\n"
    assert capsys.readouterr().out == notice
    jobs = plan(program, ARMS, [0], out, ["distill.method.normalization.eps=0.1"])
    chosen = ["distill.method.normalization.eps=0.1" in job.command for job in jobs]
    assert chosen == [False, False, True]
    assert (
        "quickstart_layernorm: distill.method.normalization.eps=0.1 is ignored"
        in capsys.readouterr().out
    )


def test_a_long_override_is_not_taken_for_a_file():
    names = f"distill.text.names=[{'a name, ' * 100}]"
    assert read_arguments([names], None) == ([], [0], [names])


def test_the_plan_is_ordered_by_seed_and_overrides_reach_arms_that_take_them(program, out):
    jobs = plan(
        program, ARMS, [3, 1], out, ["distill.weight=2", "model.ch=4", "distill.view=clean"]
    )
    arms = ["quickstart", "quickstart_layernorm", "quickstart_whitening"]
    assert [job.folder for job in jobs] == [
        out / f"{arm}_seed{seed}" for seed in (3, 1) for arm in arms
    ]
    both = ["distill.weight=2", "model.ch=4", "distill.view=clean"]
    for job, config, own in zip(jobs, ARMS * 2, [["model.ch=4"], both, both] * 2, strict=True):
        seed = job.folder.name[-1]
        assert job.command == [
            *program.command, "train", str(config), *own, f"seed={seed}",
            "--out", str(job.folder), "--resume",
        ]  # fmt: skip
    assert not any(job.finished for job in jobs)


def test_a_sweep_starts_this_package(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(local, "sweep", lambda *arguments: started.append(arguments[0]) or [])
    with pytest.raises(VkdError, match="1 runs failed"):
        cli.front.sweep([str(ARMS[0])], None, 1, tmp_path, None)
    assert started == [Program([sys.executable, "-m", "gan_vkd"], load_settings)]


@pytest.mark.parametrize(
    ("configs", "seeds", "overrides", "fault"),
    [
        ([*ARMS, CONFIGS / "nowhere.yaml"], [0], [], "no such settings file"),
        (ARMS, [0], ["distill.wieght=1"], "did you mean distill.weight"),
        (ARMS, [0], ["model.ch=0"], "model.ch"),
        (ARMS, [0, 2**32], [], "seed = 4294967296"),
        (ARMS, [0], ["seed=4"], "set by --seeds"),
        ([Path("quickstart+seed=4")], [0], [], "set by --seeds"),
        (ARMS, [0, 1, 0], [], "seed 0 is given twice"),
        ([*ARMS, Path("quickstart")], [0], [], "quickstart is given twice"),
        ([ARMS[0], Path("quickstart+model.ch=4")], [0], [], r"twice; a run .* \+arm=NAME"),
        ([], [0], [], "no settings file"),
        (ARMS, [], [], "no seed"),
    ],
)
def test_invalid_arguments_are_refused_before_the_first_run(
    program, out, configs, seeds, overrides, fault
):
    with pytest.raises(SettingsError, match=fault) as caught:
        sweep(program, configs, seeds, out, overrides)
    assert len(str(caught.value).splitlines()) == 1
    assert list(out.iterdir()) == []


def test_conflicting_runs_and_unwritable_folders_are_refused_first(program, out, tmp_path):
    with pytest.raises(SettingsError, match="jobs = 0"):
        sweep(program, ARMS, [0], out, [], jobs=0)
    Run(out / "quickstart_whitening_seed0").write_settings(
        load_settings(ARMS[0], ["model.ch=4"]).dump()
    )
    with pytest.raises(SettingsError, match="holds a run with other settings"):
        sweep(program, ARMS, [0], out, [])
    with pytest.raises(VkdError, match="cannot be written"):
        sweep(program, ARMS, [0], Path(__file__) / "out", [])
    assert events(out) == []


# runs


def test_order_of_runs_logs_output_and_threads(program, out, capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    folders = sweep(program, ARMS[:2], [0, 1], out, ["model.ch=4"])
    names = [f"quickstart{arm}_seed{seed}" for seed in (0, 1) for arm in ("", "_layernorm")]
    assert folders == [out / name for name in names]
    expected = [[name, what] for name in names for what in ("start", "end")]
    assert [event[:2] for event in events(out)] == expected, "one after the other, in order"

    printed = capsys.readouterr().out
    log = (out / f"{names[1]}.log").read_text()
    assert "threads 12\n" in log
    assert f"name {names[1]}" in log, "the log has stdout and stderr"
    assert "seed=0 --out" in log.splitlines()[0], "the first line is the command"
    assert "threads" not in printed
    lines = printed.splitlines()
    assert lines[0] == f"quickstart seed 0 started, {out / names[0]}.log"
    assert lines[1].startswith("1/4 quickstart seed 0 finished in ")
    assert lines[1].endswith(" left")
    assert "left" not in lines[7]
    assert lines[8] == f"quickstart seed 0: finished; done well; {out / names[0]}.log"
    assert len(lines) == 4 + 4 + 4

    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    sweep(program, ARMS[:2], [0, 1], out, ["model.ch=4"], jobs=4)
    log = (out / f"{names[1]}.log").read_text()
    assert log.count("done well") == 2, "the log is appended to"
    assert "threads 5\n" in log, "the user's setting is kept"


def test_the_last_line_of_running_runs_is_reported(program, out, capsys, monkeypatch):
    monkeypatch.setattr(local, "REPORT_EVERY", 0)
    sweep(program, ARMS[:1], [0], out, [])
    assert "quickstart seed 0: half way\n" in capsys.readouterr().out


@pytest.mark.parametrize("jobs", [2, 3])
def test_at_most_the_requested_number_of_runs_is_parallel(program, out, jobs):
    for arm in ARMS:
        (out / f"{arm.stem}_seed0.does").write_text(f"meet {jobs}")
    sweep(program, ARMS, [0, 1], out, [], jobs=jobs)
    at_once = [0]
    for _, what, _ in events(out):
        at_once.append(at_once[-1] + (1 if what == "start" else -1))
    assert max(at_once) == jobs
    assert at_once[-1] == 0


def test_failed_runs_do_not_stop_others_and_are_repeated_by_the_next_call(program, out, capfd):
    (out / "quickstart_seed0.does").write_text("fail")
    (out / "quickstart_layernorm_seed0.does").write_text("wait")
    killer = (
        "import os, signal, sys, time\n"
        "while True:\n"
        "    time.sleep(0.05)\n"
        "    for line in open(sys.argv[1]) if os.path.exists(sys.argv[1]) else []:\n"
        "        name, what, pid = line.split()\n"
        "        if name == 'quickstart_layernorm_seed0':\n"
        "            sys.exit(os.kill(int(pid), signal.SIGKILL))\n"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", killer, str(out / "events")]):
        folders = sweep(program, ARMS, [0, 1], out, [], jobs=2)
    assert [folder.name for folder in folders] == [
        "quickstart_whitening_seed0",
        *(f"quickstart{arm}_seed1" for arm in ("", "_layernorm", "_whitening")),
    ]
    printed, err = capfd.readouterr()
    summary = printed.splitlines()[-6:]
    failed = "quickstart seed 0: failed (exit code 3); vkd: it cannot go on; "
    assert summary[0] == f"{failed}{out / 'quickstart_seed0.log'}"
    assert summary[1].startswith("quickstart_layernorm seed 0: failed (SIGKILL); half way; ")
    assert all(": finished; done well; " in line for line in summary[2:])
    assert err == ""

    for file in out.glob("*.does"):
        file.unlink()
    assert len(sweep(program, ARMS, [0, 1], out, [], jobs=3)) == 6


def test_a_failed_start_leaves_no_process_behind(program, out, monkeypatch):
    (out / "quickstart_seed0.does").write_text("wait")
    (out / "quickstart_layernorm_seed0.log").mkdir()
    with pytest.raises(VkdError, match=r"layernorm_seed0\.log: the run cannot be started"):
        sweep(program, ARMS, [0], out, [], jobs=2)
    for _, what, pid in events(out):
        assert what in ("start", "SIGTERM", "end")
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_the_remaining_time_is_that_of_the_remaining_runs(program, out, capsys, monkeypatch):
    def ended(waiting, jobs, *_):
        while waiting:
            yield waiting.pop(0), 0, 3600.0

    monkeypatch.setattr(local, "_ended", ended)
    sweep(program, ARMS[:1], list(range(4)), out, [])
    lines = capsys.readouterr().out.splitlines()
    lefts = [line.partition("; about ")[2] for line in lines[:4]]
    assert lefts == ["3h00m left", "2h00m left", "1h00m left", ""]
    sweep(program, ARMS[:1], list(range(4)), out, [], jobs=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1/4 quickstart seed 0 finished in 1h00m; about 1h15m left"


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7s"), (59.6, "1m00s"), (200, "3m20s"),
                                               (3599.9, "1h00m"), (3725, "1h02m")])  # fmt: skip
def test_durations_are_formatted(seconds, text):
    assert local._duration(seconds) == text


# signals


@pytest.fixture
def started(program, out):
    """Starts a sweep in its own process group, as a terminal does; kills it after the test."""
    code = (
        "import signal\nfrom pathlib import Path\nfrom gan_vkd import cli\n"
        "from gan_vkd.game.settings import load_settings\n"
        "from gan_vkd.sweep.local import sweep\nfrom gan_vkd.sweep.plan import Program\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # also if the tests run under nohup
        f"program = Program({program.command}, load_settings)\n"
        f"arms = [Path(arm) for arm in {[str(arm) for arm in ARMS]}]\n"
        f"cli.app = lambda: sweep(program, arms, [0, 1], Path({str(out)!r}), [], 2)\n"
        "cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    process.kill()
    process.communicate()
    for _, _, pid in events(out):
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize(
    ("number", "forwarded"),
    [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGTERM")],
)
def test_a_signal_is_forwarded_once_and_no_run_is_started(program, out, request, number, forwarded):
    for arm in ("", "_layernorm"):
        (out / f"quickstart{arm}_seed0.does").write_text("wait")
    process = request.getfixturevalue("started")
    until(lambda: len(events(out)) == 2)
    os.killpg(process.pid, number)  # to the process group, as a terminal does
    printed, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == f"vkd: {out}: stopped by {number.name}; call again to continue\n"
    seen = [what for _, what, _ in events(out)]
    assert sorted(seen) == sorted(["start", forwarded, "end"] * 2)
    summary = printed.splitlines()[-6:]
    code = 128 + getattr(signal, forwarded)
    assert summary[0].startswith(f"quickstart seed 0: stopped (exit code {code}); ")
    assert all(": not started; " in line for line in summary[2:])


def test_a_second_sigint_kills_the_runs(program, out, request):
    for arm in ("", "_layernorm"):
        (out / f"quickstart{arm}_seed0.does").write_text("stubborn")
    process = request.getfixturevalue("started")
    until(lambda: len(events(out)) == 2)
    os.killpg(process.pid, signal.SIGINT)
    until(lambda: len(events(out)) == 4)
    time.sleep(0.3)
    assert process.poll() is None, "it waits for the runs"
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert [what for _, what, _ in events(out)] == ["start", "start", "SIGINT", "SIGINT"]
    assert "stopped (SIGKILL)" in printed


def test_signal_handlers_are_restored(program, out):
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in handled]
    sweep(program, ARMS[:1], [0], out, [])
    assert [signal.getsignal(number) for number in handled] == before
    assert issubclass(Stopped, VkdError)


# with real runs


def test_two_arms_are_trained_and_then_skipped(classifier, out, capsys, monkeypatch):
    monkeypatch.setattr(local, "start", lambda job, environment: Forked(job.command, job.log))
    monkeypatch.setattr(local, "REPORT_EVERY", 1e9)
    overrides = [
        f"evaluate.features.weights={classifier}", f"distill.teacher.weights={classifier}",
        "data.num_images=100", "model.ch=2", "model.z_dim=8", "train.batch_size=8",
        "train.d_steps=1", "train.iterations=2", "evaluate.every=2", "evaluate.num_samples=20",
        "evaluate.standing_batches=2",
        "device=cpu",
    ]  # fmt: skip
    program = Program([sys.executable, "-m", "gan_vkd"], load_settings)
    arms = [ARMS[0], ARMS[2]]
    folders = sweep(program, arms, [0], out, overrides, jobs=2)
    assert folders == [out / "quickstart_seed0", out / "quickstart_whitening_seed0"], (
        capsys.readouterr().out
    )
    for folder in folders:
        records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        assert records[-1]["iteration"] == 2
    assert capsys.readouterr().out.count("finished, ") == 2, "the last line of each run"
    logs = [file.read_text() for file in sorted(out.glob("*.log"))]
    assert sweep(program, arms, [0], out, overrides) == folders
    assert [file.read_text() for file in sorted(out.glob("*.log"))] == logs, "no run was started"
    assert "\n2/2 finished already\n" in capsys.readouterr().out
    assert not any(
        job.finished for job in plan(program, arms, [0], out, [*overrides, "train.iterations=3"])
    )

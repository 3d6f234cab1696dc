"""Signals and time limits that stop a run."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import pytest

from gan_vkd.runtime import stopping
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.stopping import End, Stop, handled, seconds

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


@pytest.fixture
def terminal():
    """Sets the default action of SIGHUP, also if the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOPS)
def test_repeated_signals_count_once_and_handlers_are_restored(number, terminal):
    before = [signal.getsignal(n) for n in STOPS]
    stop = Stop()
    with stop.listening():
        assert stop.end is End.FINISHED
        os.kill(os.getpid(), number)
        assert stop.end == 128 + number
        os.kill(os.getpid(), number)  # a repetition within SECOND, as by launchers, does not count
        assert stop.end == 128 + number
    assert [signal.getsignal(n) for n in STOPS] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_immediately(number, monkeypatch):
    monkeypatch.setattr(stopping, "SECOND", 0.05)
    with Stop().listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.06)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_sighup_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        received = []
        with handled([signal.SIGHUP, signal.SIGUSR1], lambda n, _: received.append(n)):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert received == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_survives_a_closed_terminal():
    """Output after the terminal was closed raises no error."""
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from gan_vkd.runtime.stopping import Stop\n"
        "with Stop().listening() as stop:\n"
        "    os.write(3, b'ready')\n"
        "    while not stop.end:\n"
        "        time.sleep(0.01)\n"
        "    print('a report', flush=True)\n"
        "    print('another', file=sys.stderr, flush=True)\n"
        "    os.write(3, b' saved %d' % stop.end)\n"
    )
    mine, terminal = pty.openpty()
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.setsid()
        for number in range(3):
            os.dup2(terminal, number)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.dup2(write, 3, inheritable=True)
        os.closerange(4, 64)
        os.execv(sys.executable, [sys.executable, "-c", code])
    os.close(terminal)
    os.close(write)
    assert os.read(read, 100) == b"ready"
    os.close(mine)  # the window is closed
    assert os.read(read, 100) == b" saved 129"
    os.waitpid(pid, 0)
    os.close(read)


def test_the_time_limit_ends_a_run():
    assert Stop(budget=100).end is End.FINISHED
    assert Stop(budget=0).end == End.OUT_OF_TIME == 124
    stop = Stop(budget=0)
    stop.signal = signal.SIGTERM
    assert stop.end == End.SIGTERM == 143, "a signal takes precedence"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("45s", 45), ("90m", 5400), ("3h30m", 12600), ("1d2h3m4s", 93784), ("02:30:00", 9000)],
)
def test_durations_are_parsed(text, expected):
    assert seconds(text) == expected


def test_an_end_time_is_parsed():
    assert seconds(f"@{int(time.time()) + 100}") == pytest.approx(100, abs=2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "90",
        "m",
        "1h-2m",
        "2:70:00",
        "30m3h",
        "1.5h",
        "-3s",
        f"{10**9}s",
        f"{10**400}h",
        f"@{10**400}",
        "9" * 5000,
    ],
)
def test_invalid_durations_are_refused(text):
    with pytest.raises(SettingsError, match="expected a time such as"):
        seconds(text)


def test_data_loader_workers_ignore_signals_for_a_minute():
    program = (
        "import os, signal; from gan_vkd.runtime.stopping import outlive; outlive(0)\n"
        "for number in (2, 1, 10, 15): os.kill(os.getpid(), number)\n"
        "print(signal.alarm(0))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 50 < int(ended.stdout) <= 60  # the worker exits after a minute

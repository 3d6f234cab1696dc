"""What asks a run to stop, and what does not."""

import os
import signal
import time

import pytest

from gan_vkd import stopping
from gan_vkd.errors import SettingsError
from gan_vkd.stopping import OUT_OF_TIME, Stop, handled, seconds

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


@pytest.fixture
def terminal():
    """Hang-ups as a terminal has them, whatever the tests run under."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_asks_once_and_the_handlers_are_put_back(number, terminal):
    before = [signal.getsignal(n) for n in STOPS]
    stop = Stop()
    with stop.listening():
        assert stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert stop.exit_code == 128 + number
        os.kill(os.getpid(), number)  # launchers repeat it: no second one yet
        assert stop.exit_code == 128 + number
    assert [signal.getsignal(n) for n in STOPS] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_stops_at_once(number, monkeypatch):
    monkeypatch.setattr(stopping, "SECOND", 0.05)
    with Stop().listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.06)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_under_nohup_a_hang_up_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        received = []
        with handled([signal.SIGHUP, signal.SIGUSR1], lambda n, _: received.append(n)):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert received == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_budget_of_time():
    assert Stop(budget=100).exit_code == 0
    assert Stop(budget=0).exit_code == OUT_OF_TIME
    stop = Stop(budget=0)
    stop.signal = signal.SIGTERM
    assert stop.exit_code == 143, "a signal is the stronger reason"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("45s", 45), ("90m", 5400), ("3h30m", 12600), ("1d2h3m4s", 93784), ("02:30:00", 9000)],
)
def test_times_as_they_may_be_typed(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "90", "m", "1h-2m", "2:70:00", "30m3h", "1.5h", "-3s"])
def test_what_is_no_time(text):
    with pytest.raises(SettingsError, match="expected a time as"):
        seconds(text)

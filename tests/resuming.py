"""Runs that are stopped in the middle and resumed."""

import os
import signal
from pathlib import Path

import pytest

from gan_vkd.game.settings import Settings
from gan_vkd.runtime.meter import Meter
from gan_vkd.runtime.stopping import Stopped
from gan_vkd.training import Game, train
from tests.states import assert_identical


def stop_in(monkeypatch: pytest.MonkeyPatch, iteration: int, *signals: int) -> None:
    """Makes runs send themselves signals at the start of an iteration, counted from 0."""
    step = Game.step

    def stopping(self: Game, done: int, meter: Meter) -> None:
        if done == iteration:
            for number in signals:
                os.kill(os.getpid(), number)
        step(self, done, meter)

    monkeypatch.setattr(Game, "step", stopping)


def assert_resumes_identically(settings: Settings, folder: Path, stop: int = 3) -> Stopped:
    """Asserts that a run in folder/stopped, stopped in iteration `stop` and resumed, equals the
    whole run in folder/whole. Returns how it was stopped."""
    train(settings, folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, stop, signal.SIGTERM)
        with pytest.raises(Stopped) as stopped:
            train(settings, folder / "stopped")
    train(settings, folder / "stopped", resume=True)
    assert_identical(folder / "whole", folder / "stopped")
    return stopped.value

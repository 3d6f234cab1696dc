"""A stranger's run folder, whatever is in it, is read, or refused in one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gan_vkd.report.compare import Measured
from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import load_state, save_state
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.progress import RunState
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.teachers.settings import NetworkSettings
from gan_vkd.training import Game, train
from tests.conftest import MakeSettings
from tests.strangers import changed, mutated

Reader = Callable[[Path], Any]


def cases(count: int) -> settings:
    return settings(
        max_examples=count, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip


@pytest.fixture(scope="session")
def own_run(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two iterations."""
    from tests.conftest import small

    make: MakeSettings = small.__wrapped__(classifier)  # type: ignore[attr-defined]
    folder = tmp_path_factory.mktemp("own") / "run"
    train(make("train.iterations=2", "evaluate.every=2"), folder)
    return folder


@pytest.fixture(scope="session")
def readers(own_run: Path) -> list[Reader]:
    """The functions that read a run folder."""
    settings = Run(own_run).settings()
    game = Game(settings, Run(own_run), "cpu")

    def restore(run: Path) -> None:
        data = game.data, game.fingerprint
        RunState(Run(run), game.trained, settings, "cpu", data).restore()

    def as_teacher(run: Path) -> None:
        load_teacher(NetworkSettings(name="discriminator", weights=str(run)), 32, "cpu")

    return [
        as_teacher,
        lambda run: Run(run).settings(),
        lambda run: Run(run).load_generator("cpu"),
        lambda run: Measured.of(Run(run)),
        restore,
    ]


def check(own_run: Path, readers: list[Reader], base: Path, draw: st.DrawFn) -> None:
    try:
        run, outside = base / "run", base / "outside"
        shutil.copytree(own_run, run)
        outside.mkdir()
        (outside / "precious").write_text("precious")
        reader = draw(st.sampled_from(readers))
        if changed(run, draw):
            try:
                reader(run)
            except VkdError as error:
                for line in str(error).split("\n"):
                    assert str(run) in line, "every line says where"
                    assert len(line) < 1000
        assert [file.name for file in outside.iterdir()] == ["precious"]
        assert (outside / "precious").read_text() == "precious"
    finally:
        shutil.rmtree(base)


@cases(100)
@given(st.data())
def test_any_run_folder_is_read_or_refused(
    own_run: Path,
    readers: list[Reader],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    check(own_run, readers, tmp_path_factory.mktemp("case"), data.draw)


@cases(100)
@given(st.data())
def test_any_classifier_is_read_or_refused(
    classifier: Path, tmp_path: Path, data: st.DataObject
) -> None:
    file = tmp_path / "classifier.safetensors"
    state = load_state(classifier)
    network = state.pop("network")
    state = mutated(data.draw, state)
    try:
        save_state(file, state | {"network": network} if isinstance(state, dict) else {"x": state})
    except ValueError:
        return
    message = str(file)
    try:
        load_teacher(NetworkSettings(name="classifier", weights=str(file)), 32, "cpu")
    except VkdError as error:
        message = str(error)
    assert str(file) in message
    assert len(message.splitlines()) == 1

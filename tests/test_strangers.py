"""A stranger's run folder, whatever is in it, is read, or refused in one line."""

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
from gan_vkd.training import Game
from tests.strangers import changed, copy_of, mutated, within_limits

Reader = Callable[[Path], Any]


def cases(count: int) -> settings:
    return settings(
        max_examples=count, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip


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


def check(
    own_run: Path,
    readers: list[Reader],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    """One run folder and one of the functions that read it."""
    reader = data.draw(st.sampled_from(readers))
    with copy_of(own_run, tmp_path_factory.mktemp("case")) as run:
        if not changed(run, data.draw):
            return
        lines, code = [str(run)], 1
        with within_limits():
            try:
                reader(run)
            except VkdError as error:
                lines, code = str(error).split("\n"), error.exit_code
        assert code in (1, 2)
        assert all(str(run) in line for line in lines), "every line says where"
        assert max(map(len, lines)) < 1000


test_any_run_folder_is_read_or_refused = cases(100)(given(data=st.data())(check))
test_any_of_more_run_folders_is_read_or_refused = pytest.mark.slow(
    cases(400)(given(data=st.data())(check))
)


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
    with within_limits():
        try:
            load_teacher(NetworkSettings(name="classifier", weights=str(file)), 32, "cpu")
        except VkdError as error:
            message = str(error)
    assert str(file) in message
    assert len(message.splitlines()) == 1

"""A training's outside: ranks that join, a folder held by one, and nothing that is done twice."""

from collections.abc import Callable

from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import one_line_without_memory
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.progress import is_finished
from gan_vkd.runtime.settings import RunSettings
from gan_vkd.runtime.stopping import Stop


def hold(
    run: RunFolder,
    settings: RunSettings,
    resume: bool,
    max_time: float | None,
    work: Callable[[Stop], None],
) -> None:
    """Does the work where some is left, alone in the folder, listening to what may ask for its end.

    Args:
        run: the folder.
        settings: of the run.
        resume: whether the folder may be that of a run that was stopped.
        max_time: seconds after which the work is asked to end.
        work: the training.

    Raises:
        SettingsError: the folder holds a run already, or one with other settings.
        VkdError: a folder in use, or no memory; and what the work raises.
    """
    stop = Stop(max_time)
    advice = f"{settings.relief}; the last checkpoint is whole"

    def finished() -> bool:
        return is_finished(run, settings, resume)

    with ranks.joined(), one_line_without_memory(advice):
        if ranks.from_first(finished):
            print(f"{run.path}: finished already ({settings.length})")
            return
        with run.locked(), stop.listening():
            if not ranks.from_first(finished):
                work(stop)

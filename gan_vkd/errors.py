"""What a user is told when a run cannot go on: one line, and the exit code of the command."""


class VkdError(Exception):
    """The work cannot go on: a file, a device, a number that is not finite."""

    exit_code = 1


class SettingsError(VkdError):
    """The settings cannot be used; no work has been done."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """What an error of somebody else's says, or its kind where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__

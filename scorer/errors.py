"""The errors that the scorer raises, and how it quotes errors of libraries."""


class BadReference(Exception):
    """A reference model cannot be used. The message, one line, names the folder and tensor or file, and what to do."""


class BadInstallation(Exception):
    """Another package stands in the place of one of Winnow's. The message, one line, says what to do."""


class ProcessDied(Exception):
    """A process that shares a training has ended before its time. Its own message, if any, says why."""


class OutOfMemory(Exception):
    """The device's memory is too small for the reference's budget; `Reference.halve` makes that smaller."""


def one_line(error: Exception) -> str:
    """An error's message as one line of at most 300 characters; the name of its class if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__

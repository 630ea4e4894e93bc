"""The errors of this room: a reference that is wrong, a memory that is too small; and how they quote others."""


class BadReference(Exception):
    """A reference model cannot be used. The message, one line, names the folder and tensor or file, and what to do."""


class OutOfMemory(Exception):
    """The device's memory is too small for the reference's budget: `Reference.halve` makes it smaller."""


def one_line(error: Exception) -> str:
    """What a foreign exception says, as one line of bearable length."""
    return " ".join(str(error).split())[:300] or type(error).__name__

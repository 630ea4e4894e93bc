"""The one error that a wrong reference raises in this room, and how it quotes others."""


class BadReference(Exception):
    """A reference model cannot be used. The message, one line, names the folder and tensor or file, and what to do."""


def one_line(error: Exception) -> str:
    """What a foreign exception says, as one line of bearable length."""
    return " ".join(str(error).split())[:300] or type(error).__name__

"""The error that wrong user input raises, and error causes as one line."""


class InputError(Exception):
    """The user's input is wrong. The message is one line: it names the file, row or field, and what to do."""


def reason(error: BaseException) -> str:
    """The cause of an error, as one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__

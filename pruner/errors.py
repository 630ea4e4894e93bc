"""The error that wrong user input raises, error causes as one line, and the errors of stores."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """The user's input is wrong. The message is one line: it names the file, row or field, and what to do."""


def reason(error: BaseException) -> str:
    """The cause of an error, as one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def as_os_errors(where: str = "") -> Iterator[None]:
    """Errors of a store's own library, such as one about credentials, become OSError; `where` begins the message."""
    try:
        yield
    except (OSError, InputError):
        raise
    except Exception as error:
        raise OSError(f"{where}: {reason(error)}" if where else reason(error)) from error

"""Silences the log and the progress bars of transformers while it loads something."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def silent() -> Iterator[None]:
    """Inside, transformers writes nothing to the terminal. Errors still come as exceptions or in the loading report."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

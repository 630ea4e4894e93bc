"""The fixture `run`: a command of `winnow` in this process, which saves the start of an interpreter and its imports."""

from collections.abc import Callable
from typing import Any

import pytest


class Ran:
    """What a command left behind."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def line(self) -> str:
        """The one line of its standard error."""
        assert "Traceback" not in self.err
        (line,) = self.err.splitlines()
        return line


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""
    from service.commands.cli import main

    def run(*arguments: Any) -> Ran:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
        shown = capsys.readouterr()
        return Ran(status, shown.out, shown.err)

    return run

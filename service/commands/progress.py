"""Progress of the commands on standard error: a bar on a terminal, without a terminal a line every few seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from service.commands.output import console
from service.contract.ablations import Ablation, AblationEstimate
from service.contract.names import Status
from service.contract.schemas import Export
from service.contract.schemas import Progress as JobProgress
from service.page.format import duration

_LINE_SECONDS = 5.0  # between two lines without a terminal
Bar = TypeVar("Bar", bound="_ProgressBar")


class _ProgressBar:
    """Shown inside the `with` block, and erased at its end."""

    def __init__(self, description: str) -> None:
        self._screen = console(stderr=True)
        self._started = self._printed_at = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=self._screen,
            transient=True,
            disable=not self._screen.is_terminal,
        )
        self._task = self._bar.add_task(description, total=None, note="")

    def __enter__(self: Bar) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _show(self, description: str, done: int, total: int | None, *, note: str = "", line: str) -> None:
        """Shows how far the work is; `line` says the same without a terminal."""
        self._bar.update(self._task, description=description, completed=done, total=total, note=note)
        if not self._screen.is_terminal and time.monotonic() - self._printed_at >= _LINE_SECONDS:
            self._print(line)
            self._printed_at = time.monotonic()

    def _print(self, line: str) -> None:
        self._screen.print(line, soft_wrap=True)


class JobBar(_ProgressBar):
    """Progress of a job."""

    def __init__(self) -> None:
        super().__init__("queued")

    def __call__(self, status: Status, progress: JobProgress) -> None:
        """Shows the status and progress of the job."""
        if status == "training":
            done, total = progress.training_tokens_done, progress.training_tokens_total or None
            note = f"{done:,} of {total or 0:,} tokens{_left(progress.eta_seconds)}" if done else "reading text"
        elif status == "scoring":
            done, total = progress.documents_done, progress.documents_total
            if total is None and progress.eta_seconds is None:
                done, total = progress.shards_done, progress.shards_total or None
            rate = f"{progress.tokens_per_second:,.0f} tokens/s"
            note = f"{progress.documents_done:,} documents, {rate}{_left(progress.eta_seconds)}"
        elif status == "planning" and progress.files_listed:
            done, total = progress.files_planned, progress.files_listed if progress.files_planned else None
            note = f"{done:,} of {total:,} files" if total else f"{progress.files_listed:,} files found"
        else:
            done, total, note = 0, None, ""
        if progress.waiting_for is not None:
            note = f"{note}; waiting: {progress.waiting_for}".removeprefix("; ")
        self._show(status, done, total, note=note, line=f"{status}: {note}" if note else status)

    def heldout(self, tokens: int, bits_per_byte: float) -> None:
        """Prints how well a reference in training predicts text that it does not learn from."""
        self._print(f"after {tokens:,} tokens: {bits_per_byte:.4f} bits per held-out byte")


class ExportBar(_ProgressBar):
    """Progress of an export."""

    def __init__(self) -> None:
        super().__init__("exporting")

    def __call__(self, shown: Export) -> None:
        """Shows the parts that are done."""
        done, total = shown.progress.parts_done, shown.progress.parts_total
        self._show("exporting", done, total, line=f"exporting: {done:,} of {total or 0:,} files or parts")


class AblationBar(_ProgressBar):
    """Progress of an ablation, after a line with what it takes."""

    def __init__(self) -> None:
        super().__init__("preparing")
        self._estimate_is_printed = False
        self._begun: tuple[float, int] | None = None  # when the first tokens were read, and how many there were

    def __call__(self, shown: Ablation) -> None:
        """Shows the tokens that were read, of all runs."""
        progress, now = shown.progress, time.monotonic()
        if shown.estimate is not None and not self._estimate_is_printed:
            self._estimate_is_printed = True
            self._print(_estimated(shown.estimate))
        done, total = progress.tokens_done, progress.tokens_total
        if done and self._begun is None:
            self._begun = now, done
        left = None
        if self._begun is not None and total and done > self._begun[1]:
            since, before = self._begun
            left = (now - since) * (total - done) / (done - before)
        note = f"{progress.runs_done} of {progress.runs_total or 0} runs, {done:,} tokens{_left(left)}" if total else ""
        line = f"ablation: {note or 'preparing'}, {duration(now - self._started)}"
        self._show("training" if total else "preparing", done, total, note=note, line=line)


class StepBar(_ProgressBar):
    """Progress of work in several steps."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Shows how many parts of a step are done."""
        done = min(done, total)
        self._show(step, done, total, line=f"{step}: {done:,} of {total:,} parts")


def _estimated(found: AblationEstimate) -> str:
    """What an ablation takes, in a line."""
    gpu = f", {found.gpu_hours:.2f} GPU-hours" if found.gpu_hours else " of one core"
    return f"{found.runs} runs, {found.tokens:,} tokens in all: about {duration(found.seconds)}{gpu}"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f", {duration(seconds)} left"


@contextmanager
def goes_on(what: str, server: str, path: str) -> Iterator[None]:
    """Says at Ctrl-C where the service shows the work, which does not end."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"the {what} goes on: {server.rstrip('/')}{path}\n")
        raise

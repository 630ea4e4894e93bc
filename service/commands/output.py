"""What the commands show: a progress bar while a job runs, and tables of what came of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.contract.names import Status
from service.contract.schemas import Progress as JobProgress
from service.contract.schemas import ScoredText

_ROWS_MAX = 24  # domains in a table
_LINE_SECONDS = 5.0  # between lines where there is no terminal


class ProgressBar:
    """One line on a terminal that moves with the job; without a terminal, a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said_at = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("queued", total=None, note="")

    def __call__(self, status: Status, progress: JobProgress) -> None:
        """Shows how far the job is."""
        if status == "training":
            done, total = progress.training_tokens_done, progress.training_tokens_total or None
            note = f"{done:,} of {total or 0:,} tokens" if done else "reading text"
        elif status == "scoring":
            done, total = progress.documents_done, progress.documents_total
            if total is None and progress.eta_seconds is None:
                done, total = progress.shards_done, progress.shards_total or None
            eta = "" if progress.eta_seconds is None else f", {_duration(progress.eta_seconds)} left"
            note = f"{progress.documents_done:,} documents, {progress.tokens_per_second:,.0f} tokens/s{eta}"
        else:
            done, total, note = 0, None, ""
        self._bar.update(self._task, description=status, completed=done, total=total, note=note)
        if not self._console.is_terminal and time.monotonic() - self._said_at >= _LINE_SECONDS:
            self._console.print(f"{status}: {note}" if note else status, highlight=False, soft_wrap=True)
            self._said_at = time.monotonic()


@contextmanager
def progress_bar() -> Iterator[ProgressBar]:
    """A progress bar on standard error, gone at the end."""
    bar = ProgressBar(Console(stderr=True))
    with bar._bar:
        yield bar


def summary(report: dict[str, Any], seconds: float | None = None) -> list[Table | str]:
    """A scored job in a few lines: counts, then the selections, then each domain's share before and after."""
    rejects, eligible = report["rejects"], report["eligible"]
    line = f"{report['documents']:,} documents, {report['tokens']:,} tokens scored"
    if report["training"]:
        line += f"; {report['training']:,} documents trained the reference"
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in rejects["reasons"].items())
    line += f"; {rejects['documents']:,} rejects" + (f" ({reasons})" if reasons else "")
    if seconds is not None:
        line += f"; {_duration(seconds)}"
    selections = Table(title="Selections", title_justify="left")
    for name in ("selection", "documents", "tokens", "share of tokens", "perplexity from", "to"):
        selections.add_column(name, justify="left" if name == "selection" else "right")
    whole = report["perplexity"]["quantiles"]
    selections.add_row("(all)", *_numbers(eligible, eligible, whole["0"], whole["100"]))
    for made in report["selections"]:
        numbers = _numbers(made, eligible, made["perplexity_min"], made["perplexity_max"])
        selections.add_row(made["id"], *numbers)
    shown: list[Table | str] = [line, selections]
    if len(report["domains"]) > 1:
        shown.append(_domains(report))
    return shown


def scored_texts(documents: list[ScoredText]) -> Iterator[str]:
    """Lines that show the scores of texts, and of their tokens where those are there."""
    for number, document in enumerate(documents, 1):
        if document.nll is None:
            yield f"text {number}: no score ({document.reject})"
        else:
            perplexity = "beyond all numbers" if document.perplexity is None else f"{document.perplexity:,.2f}"
            yield f"text {number}: {document.n_tokens:,} tokens, nll {document.nll:,.2f}, perplexity {perplexity}"
        for token in document.tokens or []:
            nll = "" if token.nll is None else f"{token.nll:.3f}"
            yield f"{nll:>8}  {token.text!r}"


def _numbers(made: dict[str, Any], whole: dict[str, Any], low: float | None, high: float | None) -> list[str]:
    share = made["tokens"] / max(1, whole["tokens"])
    band = ["–" if value is None else f"{value:,.2f}" for value in (low, high)]
    return [f"{made['documents']:,}", f"{made['tokens']:,}", f"{share:.1%}", *band]


def _domains(report: dict[str, Any]) -> Table:
    """Shares of each domain in documents / tokens, before and in each selection."""
    table = Table(title="Domains: share of documents / of tokens", title_justify="left")
    table.add_column("domain")
    table.add_column("before", justify="right")
    for made in report["selections"]:
        table.add_column(made["id"], justify="right")
    columns = [report["domains"], *(made["domains"] for made in report["selections"])]
    for row in list(zip(*columns, strict=True))[:_ROWS_MAX]:
        table.add_row(_domain(row[0]), *(f"{d['documents_share']:.1%} / {d['tokens_share']:.1%}" for d in row))
    if len(report["domains"]) > _ROWS_MAX:
        table.caption = f"the {_ROWS_MAX} largest of {len(report['domains'])} domains; the report has the others"
    return table


def _domain(row: dict[str, Any]) -> str:
    if "others" in row:
        return f"({row['others']:,} smaller domains)"
    return "(none)" if row["domain"] is None else str(row["domain"]).replace("[", "\\[")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"

"""What the commands print: tables and lines of results."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from pruner.ablation.compare import ALL
from pruner.ablation.result import AblationResult, Interval
from scorer.training.summary import TrainingSummary
from service.contract.schemas import JobCorpus, ScoredText
from service.page.format import domain_name, duration

_DOMAINS_MAX = 24  # rows of the table
_OVERLAPS_MAX = 15  # rows
_SHARES = ("documents_of_smaller", "documents_of_all")


def console(*, stderr: bool = False) -> Console:
    """A console that prints all text as it is, without markup, emoji codes and highlighting.

    Text of users, such as paths and domains, may look like markup. Without a terminal, lines are hardly ever wrapped.
    """
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else 1000, markup=False, emoji=False, highlight=False)


def ablation_table(result: AblationResult, seconds: float) -> list[Table | str]:
    """The result of an ablation, to print on a `console`."""
    measure = "the right answers of tasks" if result.measure == "tasks" else "held-out text"
    title = f"Bits per byte of {measure}, with 95 % intervals"
    table = Table(title=title, title_justify="left")
    for name in ("arm", "documents", "passes", "value", "minus all", "minus random", "faster"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm in result.arms:
        numbers = [f"{arm.documents:,}", f"{arm.passes:.2f}", f"{arm.value:.4f}"]
        differences = [None if arm.name == ALL else arm.difference, arm.against_random]
        steps = "–" if arm.steps_to_baseline is None else f"{arm.steps_to_baseline:.2f}x"
        steps = f"≥ {steps}" if (arm.steps_to_baseline or 0) >= 4 else steps  # as good at the first measurement
        table.add_row(arm.name, *numbers, *map(_difference, differences), steps)
    noise = result.noise
    smallest = "" if noise.detectable is None else f"; a difference of {noise.detectable:.4f} could have been shown"
    lines = [f"noise: {noise.arm} differs from all by {noise.difference.value:+.4f}{smallest}; {duration(seconds)}"]
    return [table, *lines, *(f"warning: {warning}" for warning in result.warnings), result.recommendation.text]


def _difference(found: Interval | None) -> str:
    if found is None:
        return "–"
    return f"{found.value:+.4f}" + ("" if found.low is None else f"\n{found.low:+.4f} to {found.high:+.4f}")


def summary(report: dict[str, Any], seconds: float | None = None) -> list[Table | str]:
    """The results of a job, to print on a `console`: counts, the selections, and the domains if there are several."""
    rejects, eligible = report["rejects"], report["eligible"]
    line = f"{report['documents']:,} documents, {report['tokens']:,} tokens scored"
    if report["training"]:
        line += f"; {report['training']:,} documents trained the reference"
    reasons = _listed(rejects["reasons"])
    line += f"; {rejects['documents']:,} rejects" + (f" ({reasons})" if reasons else "")
    if seconds is not None:
        line += f"; {duration(seconds)}"
    selections = Table(title="Selections", title_justify="left")
    for name in ("selection", "documents", "tokens", "share of tokens", "perplexity from", "to"):
        selections.add_column(name, justify="left" if name == "selection" else "right")
    whole = report["perplexity"]["quantiles"]
    selections.add_row("(all)", *_numbers(eligible, eligible, whole.get("0"), whole.get("100")))
    for made in report["selections"]:
        numbers = _numbers(made, eligible, made["perplexity_min"], made["perplexity_max"])
        selections.add_row(made["id"], *numbers)
    without = lacking(report.get("lacking", {}), eligible["documents"])
    shown: list[Table | str] = [
        line,
        *without,
        *(f"warning: {warning}" for warning in report.get("warnings", ())),
        selections,
    ]
    if len(report["domains"]) > 1:
        shown.append(_domains(report))
    if report.get("lacking") and "overlaps" in report:  # of further scorers; not of an earlier version
        shown += _comparison(report)
    return shown


def lacking(counts: Mapping[str, int], documents: int) -> Iterator[str]:
    """A line about the documents, of those with a score, that have no value of some further scorers; none if all do."""
    if some := _listed({name: number for name, number in counts.items() if number}):
        yield f"without a value: {some} of {documents:,} documents"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())


def left_out(corpus: JobCorpus | None) -> Iterator[str]:
    """A line for each reason why files of a corpus are left out, and for each pattern that matches none."""
    for left in corpus.left_out if corpus is not None else ():
        files = f"left out: {_files(left.files)} ({left.reason}), such as {left.example}"
        yield files if left.files else f"warning: {left.reason}"


def rows_left_out(rejects: Counter[str]) -> Iterator[str]:
    """A line about rows that are no documents, if there are any."""
    if rejects:
        reasons = _listed(dict(sorted(rejects.items())))
        yield f"left out: {rejects.total():,} of the rows that were read, which are no documents ({reasons})"


def files_left_out(corpus: JobCorpus | None) -> str:
    """How many files of a corpus are left out; empty if none are."""
    number = sum(left.files for left in corpus.left_out) if corpus is not None else 0
    return _files(number) if number else ""


def _files(number: int) -> str:
    return f"{number:,} file" + ("s" if number > 1 else "")


def trained_reference(found: TrainingSummary | None) -> Iterator[str]:
    """Lines about a reference that was trained."""
    if found is None:
        return
    line = f"reference: {found.tokens:,} tokens read, {found.distinct_tokens:,} distinct, {found.passes:.1f} passes"
    if found.heldout_bits_per_byte is not None:
        documents = f"{found.heldout_documents:,} held-out document" + ("s" if found.heldout_documents > 1 else "")
        line += f"; {found.heldout_bits_per_byte:.3f} bits per byte on {documents}"
    yield line
    if found.warning is not None:
        yield f"warning: {found.warning}"


def scored_texts(documents: list[ScoredText]) -> Iterator[str]:
    """Lines with the scores of texts, and of their tokens if they were asked for."""
    for number, document in enumerate(documents, 1):
        if document.nll is None:
            yield f"text {number}: no score ({document.reject})"
        else:
            perplexity = "infinite" if document.perplexity is None else f"{document.perplexity:,.2f}"
            yield f"text {number}: {document.n_tokens:,} tokens, nll {document.nll:,.2f}, perplexity {perplexity}"
        for token in document.tokens or []:
            nll = "" if token.nll is None else f"{token.nll:.3f}"
            yield f"{nll:>8}  {token.text!r}"


def _numbers(made: dict[str, Any], whole: dict[str, Any], low: float | None, high: float | None) -> list[str]:
    share = made["tokens"] / max(1, whole["tokens"])
    band = ["–" if value is None else f"{value:,.2f}" for value in (low, high)]
    return [f"{made['documents']:,}", f"{made['tokens']:,}", f"{share:.1%}", *band]


def _comparison(report: dict[str, Any]) -> Iterator[Table]:
    """Tables of the rank correlations of the job's scores, and of what its selections have in common."""
    names = {"perplexity", *report["lacking"]}
    pairs = [pair for pair in report["correlations"]["pairs"] if names.issuperset(pair["scores"])]
    if pairs:
        table = Table(title="Rank correlation of scores", title_justify="left")
        for name in ("scores", "documents", "correlation"):
            table.add_column(name, justify="left" if name == "scores" else "right")
        for pair in pairs:
            value = "–" if pair["rank_correlation"] is None else f"{pair['rank_correlation']:+.3f}"
            table.add_row(", ".join(pair["scores"]), f"{pair['documents']:,}", value)
        yield table
    if report["overlaps"]:
        table = Table(title="Selections: documents in both", title_justify="left")
        for name in ("selections", "documents", "of the smaller", "of all"):
            table.add_column(name, justify="left" if name == "selections" else "right")
        for both in report["overlaps"][:_OVERLAPS_MAX]:
            shares = ("–" if both[name] is None else f"{both[name]:.1%}" for name in _SHARES)
            table.add_row(", ".join(both["selections"]), f"{both['documents']:,}", *shares)
        if len(report["overlaps"]) > _OVERLAPS_MAX:
            table.caption = f"the first {_OVERLAPS_MAX} of {len(report['overlaps'])} pairs; all are in the report"
        yield table


def _domains(report: dict[str, Any]) -> Table:
    """A table of each domain's share of documents and tokens, before and in each selection."""
    table = Table(title="Domains: share of documents / of tokens", title_justify="left")
    table.add_column("domain")
    table.add_column("before", justify="right")
    for made in report["selections"]:
        table.add_column(made["id"], justify="right")
    columns = [report["domains"], *(made["domains"] for made in report["selections"])]
    for row in list(zip(*columns, strict=True))[:_DOMAINS_MAX]:
        table.add_row(domain_name(row[0]), *(f"{d['documents_share']:.1%} / {d['tokens_share']:.1%}" for d in row))
    if len(report["domains"]) > _DOMAINS_MAX:
        table.caption = f"the {_DOMAINS_MAX} largest of {len(report['domains'])} domains; all are in the report"
    return table

"""The report of a job: the summary of its scores, and what each selection keeps."""

from collections.abc import Sequence

from pruner.select.selection_record import SelectionRecord, SelectionReport
from pruner.select.summary import Summary


class Report(Summary):
    """The report as stored in report.json."""

    selections: list[SelectionReport]


def report(summary: Summary, selections: Sequence[SelectionRecord]) -> Report:
    """The report of a summary and of selections, in the given order."""
    return Report(**dict(summary), selections=[selection.flat() for selection in selections])

"""The report of a job: the summary of its scores, what each selection keeps, and how scores and selections compare."""

from collections.abc import Sequence

from pruner.select.kept_scores import KeptScores, Overlap, ScoreReport
from pruner.select.score_columns import Correlations
from pruner.select.selection_record import SelectionRecord, SelectionReport
from pruner.select.summary import Summary


class Report(Summary):
    """The report as stored in report.json. The first selections alone are compared, see kept_scores.py."""

    selections: list[SelectionReport]
    scores: list[ScoreReport]
    correlations: Correlations
    overlaps: list[Overlap]


def report(
    summary: Summary, selections: Sequence[SelectionRecord], kept: KeptScores, correlations: Correlations
) -> Report:
    """The report of a summary and of selections, in the given order."""
    warnings = [*summary.warnings, *_constant(kept.scores), *_absent(kept.scores)]
    return Report(
        **dict(summary) | {"warnings": warnings},
        selections=[selection.flat() for selection in selections],
        scores=kept.scores,
        correlations=correlations,
        overlaps=kept.overlaps,
    )


def _absent(scores: Sequence[ScoreReport]) -> list[str]:
    """A warning that names the scores that no document has, if there are any."""
    names = [score.name for score in scores if not score.documents]
    return [f"no document has the score {', '.join(names)}; a selection by it keeps nothing"] if names else []


def _constant(scores: Sequence[ScoreReport]) -> list[str]:
    """A warning that names the scores that hardly differ, if there are any."""
    names = [score.name for score in scores if score.nearly_constant]
    if not names:
        return []
    return [
        f"nearly constant, with the same value for at least 90 % of the documents: {', '.join(names)}; a selection by "
        "such a score is one by file and row"
    ]

"""Which documents the page shows of a preview: at both ends and the median of its order, and around its thresholds."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from service.page.format import perplexity, score_value
from service.page.kept import by_perplexity, infinite_if_null, score_of


class SampleSpan(NamedTuple):
    """Consecutive documents from a rank on. With `domain`, a row of the report, ranks are those within this domain.

    Ranks are by perplexity, with `per` by NLL per byte, with `score` by this score.
    """

    rank: int
    documents: int
    domain: int | None = None
    per: str | None = None
    score: str | None = None

    @property
    def order(self) -> str:
        """What ranks are by, if not by perplexity."""
        return self.score or ("NLL per byte" if self.per else "")


class Sample(NamedTuple):
    """A titled span of documents. Those with ranks in [`start`, `stop`), if known, are kept.

    `value` says the value of the threshold in the middle of the span, if it is known; `domain` is the name of the
    span's domain, if any.
    """

    title: str
    span: SampleSpan
    start: int | None
    stop: int | None
    value: str = ""
    domain: str | None = None
    at_threshold: bool = False


def samples(preview: dict[str, Any], documents: int, default: str | None, names: dict[int, str]) -> list[Sample]:
    """Samples at both ends, at the median, and around the thresholds of the preview or of its largest domains.

    `documents` are all that selections choose from; `default` is the score by which they are shown where the preview is
    by none that ranks them, None for perplexity. `names` are those of the domains in a report's rows.
    """
    score = score_of(preview)
    own = score is not None or by_perplexity(preview)
    if score is None and not by_perplexity(preview) and preview.get("per") is None:
        score = default
    ranked = preview.get("ranked_documents") if own and score is not None else None
    result = list(_whole(preview, documents if ranked is None else ranked, score if own else default, own=own))
    per = preview.get("per")
    if not own and per is None:
        return result
    if preview["within"] is None:
        result += _at_thresholds(preview, documents if ranked is None else ranked, per, score)
        if own:
            result.sort(key=lambda sample: sample.span.rank)
    for row, inside in enumerate(preview["inside"]):
        result += _at_thresholds(inside, inside["documents"], per, score, row, names[row])
    return result


def _whole(preview: dict[str, Any], documents: int, score: str | None, *, own: bool) -> Iterator[Sample]:
    """Samples of all documents in the order of a score, None for perplexity."""
    kept = (preview["start"], preview["stop"]) if own else (None, None)
    count, low, high = min(5, documents), "perplexity: the most predictable", "perplexity: the least predictable"
    yield Sample(f"Lowest {score or low}", SampleSpan(0, count, score=score), *kept)
    median = "Around the median" if score is None else f"Around the median of {score}"
    yield Sample(median, _around(documents // 2, documents, score=score), *kept)
    yield Sample(f"Highest {score or high}", SampleSpan(documents - count, count, score=score), *kept)


def _at_thresholds(
    kept: dict[str, Any],
    documents: int,
    per: str | None,
    score: str | None,
    row: int | None = None,
    domain: str | None = None,
) -> Iterator[Sample]:
    """Samples around the thresholds of a selection, or of its part within one domain."""
    start, stop = kept["start"], kept["stop"]
    if start is None or stop is None:
        return
    low = high = ""
    if score is not None and kept.get("value_min") is not None:
        low, high = (f"{score} {score_value(kept[name])}" for name in ("value_min", "value_max"))
    elif score is None and per is None and kept["perplexity_min"] is not None:
        low = f"perplexity {perplexity(kept['perplexity_min'])}"
        high = f"perplexity {perplexity(infinite_if_null(kept['perplexity_max']))}"
    for title, rank, value in (("lower", start, low), ("upper", stop, high)):
        if (stop > start > 0) if title == "lower" else (start < stop < documents):
            span = _around(rank, documents, row, per, score)
            yield Sample(f"Around the {title} threshold", span, start, stop, value, domain, at_threshold=True)


def _around(
    rank: int, documents: int, row: int | None = None, per: str | None = None, score: str | None = None
) -> SampleSpan:
    """Five documents, or all if there are fewer, two of them below the rank where possible."""
    count = min(5, documents)
    return SampleSpan(max(0, min(rank - 2, documents - count)), count, row, per, score)

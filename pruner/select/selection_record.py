"""Records of a selection: what it keeps, its preview, and its shape in reports and in the API."""

from typing import Literal

from pydantic import BaseModel

from pruner.select.domains import DomainRow
from pruner.spec import Criterion, Difference, Name, Per, RankSum, ScoreName, Seed, SelectionSpec, Stages
from pruner.tables.hashing_writer import WrittenFile
from pruner.tables.records import Record


class SelectionReport(BaseModel):
    """What a selection keeps, in the flat shape of reports and of the API."""

    id: str
    criterion: Criterion
    rate: float
    unit: Literal["documents", "tokens"]
    within: Literal["domain"] | None
    per: Per = None
    seed: Seed = None
    score: ScoreName = None
    name: Name = None
    stages: Stages = None
    difference: Difference = None
    rank_sum: RankSum = None
    documents: int
    tokens: int
    perplexity_min: float | None
    perplexity_max: float | None
    start: int | None
    stop: int | None
    domains: list[DomainRow]


class SelectionCounts(BaseModel):
    """What a selection keeps.

    The perplexities are the lowest and the highest of the kept documents, None if it keeps nothing. The kept documents
    have the ranks [start, stop) in the selection's order; these are None for a selection within domains: its documents
    are no run of ranks. Shares of `domains` are of all that is kept.
    """

    spec: SelectionSpec
    documents: int
    tokens: int
    perplexity_min: float | None
    perplexity_max: float | None
    start: int | None
    stop: int | None
    domains: list[DomainRow]

    def flat(self) -> SelectionReport:
        """The public shape."""
        counts = {name: getattr(self, name) for name in SelectionCounts.model_fields if name != "spec"}
        return SelectionReport(id=self.spec.id, **self.spec.model_dump(), **counts)


class DomainBand(BaseModel):
    """What a selection within domains keeps of one domain: the ranks [start, stop) among its `documents`.

    The perplexities are the lowest and the highest of the kept documents, None if nothing is kept.
    """

    domain: str | None
    documents: int
    start: int
    stop: int
    perplexity_min: float | None
    perplexity_max: float | None


class PreviewReport(SelectionReport):
    """A preview in the flat shape of the API.

    Of a selection by one score, or by thresholds on one, `start` and `stop` are ranks by this score, and the values are
    the lowest and the highest that are kept; these are null within domains and if nothing is kept.

    `bin_documents` and `bin_tokens` are what is kept of each bin of the report's distribution of the selection's score,
    or of its histogram of perplexity; null where there is none, and where counting would take long.
    """

    inside: list[DomainBand]
    ranked_documents: int | None = None  # that have a rank: all that are not lacking a score that is used
    value_min: float | None = None
    value_max: float | None = None
    bin_documents: list[int] | None = None
    bin_tokens: list[int] | None = None


class Preview(SelectionCounts):
    """What a selection would keep; if it is within domains, `inside` has its bands in the largest of them."""

    inside: list[DomainBand]

    def flat(self) -> PreviewReport:
        """The public shape."""
        return PreviewReport(**dict(super().flat()), inside=self.inside)


class SelectionRecord(SelectionCounts, Record):
    """A selection that was made, as stored in selection.json. `files` are those beside it, by name."""

    files: dict[str, WrittenFile]

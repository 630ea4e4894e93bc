"""Further scorers of a job, as a request names them: a classifier, a second reference, or a field of the corpus."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pruner.spec import FieldName, SelectionSpec
from scorer.spec import RequestModel

ScorerName = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
ModelName = Annotated[str, Field(min_length=1, max_length=4096)]
ScorerKind = Literal["classifier", "reference", "field"]
SCORERS_MAX = 16

STATISTICS = ("surprisal_sq", "surprisal_max", "share_8", "prior_mean", "prior_std")  # columns of the main pass
_COLUMNS = ("file", "row", "id", "domain", "n_tokens", "nll", "perplexity", "n_bytes", "percentile", "training")
RESERVED = frozenset({*_COLUMNS, "reject", "reason", "kept", "all", "random", *STATISTICS})


class ScorerSpec(RequestModel):
    """One of `classifier` (a sequence-classification model with one output), `reference` (a further one) or `field`."""

    classifier: ModelName | None = Field(None, description="A sequence-classification folder or hub id, one output.")
    reference: ModelName | None = Field(None, description="A folder or hub id of a further reference.")
    field: FieldName | None = Field(None, description="A numeric field of the corpus, such as `score`.")
    windows: Literal["first", "all"] = Field(
        "first", description="Of a classifier: it reads the first window of a document, or all of them."
    )
    aggregate: Literal["mean", "max"] = Field(
        "mean", description="Of a classifier that reads all windows: the value of a document of several."
    )

    @model_validator(mode="after")
    def _one_of_three(self) -> "ScorerSpec":
        given = [name for name in ("classifier", "reference", "field") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of 'classifier' and 'reference' (a folder or hub id) and 'field'")
        if self.classifier is None and {"windows", "aggregate"} & self.model_fields_set - _defaults(self):
            raise ValueError("'windows' and 'aggregate' are for a classifier: leave them out")
        if self.windows == "first" and self.aggregate != "mean":
            raise ValueError("'aggregate' is for a classifier with windows 'all': leave it out")
        return self

    @property
    def kind(self) -> ScorerKind:
        """Which of the three it is."""
        return "classifier" if self.classifier is not None else "reference" if self.reference is not None else "field"

    @property
    def model(self) -> str | None:
        """The folder or hub id of its model; None of a field."""
        return self.classifier or self.reference

    def columns(self, name: str) -> tuple[str, ...]:
        """The columns that it adds to the table of scores, by its name; the first is its value."""
        more = {"classifier": (f"{name}_int",), "reference": (f"{name}_nll", f"{name}_n_tokens"), "field": ()}
        return (name, *more[self.kind])

    def values(self, name: str) -> tuple[str, ...]:
        """The columns that selections can use: its value, and the integer of a classifier's."""
        return self.columns(name)[: 2 if self.kind == "classifier" else 1]


def _defaults(spec: ScorerSpec) -> set[str]:
    """The fields that have their default, given or not: a request as returned names all of them."""
    return {name for name, field in ScorerSpec.model_fields.items() if getattr(spec, name) == field.default}


def check_names(scores: dict[str, ScorerSpec]) -> dict[str, ScorerSpec]:
    """The scorers. Raises ValueError for a name that is reserved, or columns that two of them would have."""
    owners: dict[str, str] = {}
    for name, spec in scores.items():
        for column in spec.columns(name):
            if column in RESERVED:
                raise ValueError(f"{name!r} is reserved: give the scorer another name")
            if column in owners:
                raise ValueError(f"{name!r} and {owners[column]!r} would both have a column {column!r}: rename one")
            owners[column] = name
    return scores


PERPLEXITY, BYTES = "perplexity", "n_bytes"
_OF_REFERENCE = frozenset({PERPLEXITY, *STATISTICS})


def check_selection(spec: SelectionSpec, scores: Mapping[str, ScorerSpec], *, has_reference: bool) -> None:
    """Raises ValueError where a selection uses a score that a job does not have."""
    there = [column for name, scorer in scores.items() for column in scorer.values(name)]
    there += [BYTES, *([PERPLEXITY, *STATISTICS] if has_reference else [])]
    if spec.score is not None and spec.score not in there:
        raise ValueError(f"score {spec.score!r} is none of the job's: it has {', '.join(there)}")
    if has_reference:
        return
    if spec.per is not None:
        raise ValueError("per: the job has no reference, so there is no NLL: name a reference, or leave out 'per'")
    if spec.unit == "tokens":
        raise ValueError("unit: the job has no reference, so there are no tokens: name a reference, or count documents")
    if spec.score is None and spec.criterion != "random":
        raise ValueError("score: the job has no reference, so there is no perplexity: name a reference or a 'score'")


def uses_no_reference(request: Mapping[str, Any]) -> bool:
    """Whether a request, as it is given, has further scorers and its selections use these alone."""
    selections = request.get("selections")
    if not request.get("scores") or not isinstance(selections, list):
        return False
    used = [_score_of(selection) for selection in selections]
    return any(score not in (None, "") for score in used) and None not in used and not _OF_REFERENCE & {*used}


def _score_of(selection: Any) -> str | None:
    """The score that a selection uses: None for that of the reference, "" for none."""
    fields = selection.model_dump() if isinstance(selection, SelectionSpec) else selection
    if not isinstance(fields, dict):
        return None
    score = fields.get("score")
    if score is None and fields.get("criterion") == "random":
        return ""
    return score if isinstance(score, str) else None

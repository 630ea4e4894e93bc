"""Further scorers of a job, as a request names them: a classifier, a second reference, or a field of the corpus."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from pruner.spec import FieldName, SelectionSpec
from scorer.spec import RequestModel

ScorerName = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
ModelName = Annotated[str, Field(min_length=1, max_length=4096)]
ScorerKind = Literal["classifier", "reference", "field"]
SCORERS_MAX = 16

STATISTICS = ("surprisal_sq", "surprisal_max", "share_8", "prior_mean", "prior_std")  # columns of the main pass
_COLUMNS = ("file", "row", "id", "domain", "n_tokens", "nll", "perplexity", "n_bytes", "percentile", "training")
_EXPORTED = ("winnow_nll", "winnow_n_tokens", "winnow_n_bytes", "winnow_percentile")  # columns of exports with scores
RESERVED = frozenset({*_COLUMNS, *_EXPORTED, "reject", "reason", "kept", "all", "random", *STATISTICS})


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
    """The scorers. Raises ValueError for a name that is reserved, or columns that two of them would have.

    Case has no say: to DuckDB and Spark `Score` and `score` are one column.
    """
    owners: dict[str, str] = {}
    for name, spec in scores.items():
        for column in spec.columns(name):
            if column.lower() in RESERVED:
                reserved = repr(name) if column == name else f"{column!r}, which {name!r} would have as a column,"
                raise ValueError(f"{reserved} is reserved: give the scorer another name")
            if (owner := owners.get(column.lower())) is not None:
                raise ValueError(f"{name!r} and {owner!r} would both have a column {column!r}: rename one")
            owners[column.lower()] = name
    return scores


PERPLEXITY, BYTES = "perplexity", "n_bytes"
_OF_REFERENCE = frozenset({None, PERPLEXITY, *STATISTICS})


def score_names(scores: Mapping[str, ScorerSpec], *, has_reference: bool) -> list[str]:
    """The scores of a job: columns that selections can use."""
    further = [column for name, scorer in scores.items() for column in scorer.values(name)]
    return [*([PERPLEXITY] if has_reference else []), *further, BYTES, *(STATISTICS if has_reference else ())]


def check_selection(spec: SelectionSpec, scores: Mapping[str, ScorerSpec], *, has_reference: bool) -> None:
    """Raises ValueError where a selection uses a score that a job does not have."""
    there = score_names(scores, has_reference=has_reference)
    for used in spec.scores:
        if used is not None and used not in there:
            add = f"; a classifier {used[:-4]!r} would give it" if used.endswith("_int") else ""
            raise ValueError(f"score {used!r} is none of the job's: it has {', '.join(there)}{add}")
    references = [name for name, scorer in scores.items() if scorer.kind == "reference"]
    references += [PERPLEXITY] if has_reference else []
    for used in spec.difference or ():
        if used not in references:
            raise ValueError(f"difference: {used!r} is no reference; the job's are {', '.join(references) or 'none'}")
    if has_reference:
        return
    if spec.per is not None:
        raise ValueError("per: the job has no reference, so there is no NLL: name a reference, or leave out 'per'")
    if spec.counts_tokens:
        raise ValueError("unit: the job has no reference, so there are no tokens: name a reference, or count documents")
    if None in spec.scores:
        raise ValueError("score: the job has no reference, so there is no perplexity: name a reference or a 'score'")


def uses_no_reference(request: Mapping[str, Any]) -> bool:
    """Whether a request, as it is given, has further scorers and its selections use these alone."""
    selections = request.get("selections")
    if not request.get("scores") or not isinstance(selections, list):
        return False
    try:
        used = [SelectionSpec.model_validate(selection).scores for selection in selections]
    except ValidationError:  # it is said with the others
        return False
    return any(used) and not _OF_REFERENCE.intersection(name for names in used for name in names)

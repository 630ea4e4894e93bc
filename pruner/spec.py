"""Request models: which corpus to read, and which selections to make of it."""

import json
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

FieldName = Annotated[str, Field(min_length=1, max_length=200)]
Glob = Annotated[str, Field(min_length=1, max_length=4096)]
Criterion = Literal["low", "medium", "high", "random"]


class CorpusSpec(BaseModel):
    """The files of a corpus and the fields to read from them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paths: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(
        min_length=1,
        max_length=100_000,
        description="Files, folders, globs or fsspec URLs: Parquet, Arrow, JSON lines, CSV and TSV, also compressed.",
    )
    include: list[Glob] = Field(
        [], max_length=1000, description="Globs: only files that match one are read. See `exclude`."
    )
    exclude: list[Glob] = Field(
        [],
        max_length=1000,
        description="Globs of files to leave out. Without `/` they match a file's name, else its path below the corpus "
        "root; `**` crosses folders, `a/` is all that lies below the folder `a`.",
    )
    text_field: FieldName = Field(
        "text", description="The field that holds a document's text: a column, or a dotted path such as `meta.text`."
    )
    id_field: FieldName | None = Field(None, description="The field that holds a document's id.")
    domain_field: FieldName | None = Field(
        None,
        description="The field that holds a document's domain, a key of folder names (`source=cc/`), `@folder` or "
        "`@file`; of a `url` it is the host.",
    )


class Rule(Protocol):
    """Which part of an order is kept."""

    @property
    def criterion(self) -> Criterion:
        """Which end, or the middle."""

    @property
    def rate(self) -> float:
        """How much of it."""

    @property
    def unit(self) -> Literal["documents", "tokens"]:
        """What the rate is of."""

    @property
    def within(self) -> Literal["domain"] | None:
        """Whether inside each domain."""


class Order(NamedTuple):
    """What documents are ranked by, or which of them stages leave.

    `token` is NLL per token, which is perplexity; `byte` NLL per byte; `hash` a hash with a seed; `score` a column of
    the table of scores; `difference` that of the NLL of two references; `rank_sum` a weighted sum of ranks by scores,
    inside domains if `within` is set; `stages` the documents that stages leave before all others.
    """

    by: Literal["token", "byte", "hash", "score", "difference", "rank_sum", "stages"]
    seed: int = 0
    column: str = ""  # of the table of scores
    terms: tuple[tuple[str, int], ...] = ()  # scores with their weights; of a difference 1 and -1
    within: bool = False
    stages: "tuple[StageSpec, ...]" = ()

    @property
    def name(self) -> str:
        """Such as `byte`, `hash-3`, `score-edu` or `stages-1f3a…`."""
        more = {"hash": f"-{self.seed}", "score": f"-{self.column}"}
        if self.terms or self.stages:
            more[self.by] = f"-{short_digest(self.fields)}"
        return f"{self.by}{more.get(self.by, '')}"

    @property
    def fields(self) -> list[Any]:
        """The fields as JSON."""
        return [*self[:-1], [stage.model_dump() for stage in self.stages]]


def short_digest(fields: Any) -> str:
    """Eight hex digits of a hash of some JSON."""
    return sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


BY_TOKEN, BY_BYTE = Order("token"), Order("byte")


def _is_none(value: object) -> bool:
    return value is None


# Absent in JSON where they are not given: selections that have neither keep their keys and the bytes of their files.
Per = Annotated[
    Literal["byte"] | None,
    Field(exclude_if=_is_none, description="`byte`: documents are ordered by NLL per byte, else per token."),
]
Seed = Annotated[
    int | None,
    Field(ge=0, lt=2**63, exclude_if=_is_none, description="Of a random selection; 0 unless given."),
]
ScoreName = Annotated[
    str | None,
    Field(
        max_length=80,
        pattern=r"^[A-Za-z][A-Za-z0-9_-]*$",
        exclude_if=_is_none,
        description="The column that documents are ordered by: a further scorer, `edu_int` of a classifier `edu`,"
        " `perplexity`, `n_bytes` or a statistic; by default NLL per token.",
    ),
]


class _StageRule(NamedTuple):
    """A Rule."""

    criterion: Criterion
    rate: float
    unit: Literal["documents", "tokens"]
    within: Literal["domain"] | None


Threshold = Annotated[float | None, Field(allow_inf_nan=False, exclude_if=_is_none)]


class StageSpec(BaseModel):
    """A stage of a selection: thresholds on a score, or a criterion and a rate of what the stage before left."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    score: ScoreName = None
    at_least: Threshold = None
    at_most: Threshold = None
    criterion: Annotated[Criterion | None, Field(exclude_if=_is_none)] = None
    rate: Annotated[float | None, Field(gt=0, le=1, exclude_if=_is_none)] = None
    unit: Annotated[Literal["documents", "tokens"] | None, Field(exclude_if=_is_none)] = None
    within: Annotated[Literal["domain"] | None, Field(exclude_if=_is_none)] = None
    seed: Seed = None

    @model_validator(mode="after")
    def _one_kind(self) -> "StageSpec":
        limits = self.at_least is not None or self.at_most is not None
        if limits == (self.criterion is not None):
            raise ValueError("a stage has thresholds ('at_least', 'at_most') or a 'criterion', and not both")
        if limits and self.score is None:
            raise ValueError("thresholds are on a score: give 'score'")
        if limits and {self.rate, self.unit, self.within, self.seed} != {None}:
            raise ValueError("thresholds have no 'rate', 'unit', 'within' or 'seed': leave these out")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"no value is at least {self.at_least:g} and at most {self.at_most:g}: exchange the two")
        if self.criterion == "random" and self.score is not None:
            raise ValueError("a random stage is in no order of a score: leave out 'score'")
        if self.criterion != "random" and self.seed is not None:
            raise ValueError("only a random stage has a 'seed': leave it out")
        return self

    @property
    def rule(self) -> Rule | None:
        """Which part is kept; None of thresholds."""
        if self.criterion is None:
            return None
        return _StageRule(
            self.criterion, 0.5 if self.rate is None else self.rate, self.unit or "documents", self.within
        )

    @property
    def order(self) -> Order:
        """What its documents are ranked by."""
        if self.criterion == "random":
            return Order("hash", self.seed or 0)
        return BY_TOKEN if self.score is None else Order("score", column=self.score)


Column = Annotated[str, Field(max_length=80, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
_ALL: dict[str, Any] = {"criterion": "low", "rate": 1.0, "unit": "documents", "within": None}  # of what stages leave
# Selections by name, each with the source that recommends it.
NAMED_SELECTIONS: dict[str, dict[str, Any]] = {
    "fineweb-edu": {"stages": [{"score": "edu_int", "at_least": 3}]},  # https://arxiv.org/abs/2406.17557
    "fineweb-edu-2": {"stages": [{"score": "edu_int", "at_least": 2}]},
    "paper-pile": {"criterion": "high", "rate": 0.5},  # https://arxiv.org/abs/2405.20541
    "paper-dolma": {"criterion": "medium", "rate": 0.5},
}


Name = Annotated[
    str | None,
    Field(
        max_length=100,
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
        exclude_if=_is_none,
        description="The selection's id; derived from its fields unless given.",
    ),
]
# Absent in JSON where they are not given, as `per` is. Lists of JSON are tuples here, so that a selection has a hash.
Stages = Annotated[
    Annotated[tuple[StageSpec, ...], Field(min_length=1, max_length=16, strict=False)] | None,
    Field(exclude_if=_is_none, description="Stages, each of what the one before left, in place of a criterion."),
]
Difference = Annotated[
    Annotated[tuple[Column, Column], Field(strict=False)] | None,
    Field(
        exclude_if=_is_none,
        description="Two references, `perplexity` or further ones: NLL of the first minus the second.",
    ),
]
RankSum = Annotated[
    Annotated[
        tuple[Annotated[tuple[Column, Annotated[int, Field(ge=-1000, le=1000)]], Field(strict=False)], ...],
        Field(min_length=1, max_length=16, strict=False),
    ]
    | None,
    Field(exclude_if=_is_none, description="Scores with integer weights: the sum of weight times rank."),
]


class SelectionSpec(BaseModel):
    """A selection: which part of the documents, in the order of a score, is kept; how many at random; or by stages.

    The name of a preset stands for its fields. `stages` run in order: each chooses from what the one before left.
    `difference` orders by NLL per token (per byte if the tokenizers differ) of the first reference minus that of the
    second. `rank_sum` orders by a sum of weight times rank.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Name = None
    criterion: Criterion = "medium"
    rate: float = Field(0.5, gt=0, le=1, description="The share that is kept.")
    unit: Literal["documents", "tokens"] = "documents"
    within: Literal["domain"] | None = Field(None, description="Apply the selection inside each domain.")
    per: Per = None
    seed: Seed = None
    score: ScoreName = None
    stages: Stages = None
    difference: Difference = None
    rank_sum: RankSum = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, fields: Any) -> Any:
        if isinstance(fields, str):
            if fields not in NAMED_SELECTIONS:
                raise ValueError(
                    f"there is no selection {fields!r}: give its fields, or one of {', '.join(NAMED_SELECTIONS)}"
                )
            fields = NAMED_SELECTIONS[fields] | {"name": fields}
        if not isinstance(fields, dict):
            return fields
        if fields.get("stages") is not None:
            return _ALL | fields
        if fields.get("criterion") == "random" and fields.get("seed") is None:
            return fields | {"seed": 0}
        return fields

    @model_validator(mode="after")
    def _fits(self) -> "SelectionSpec":
        if self.name == "all":
            raise ValueError("'all' is the name of all documents: give another name")
        ordered = [name for name in ("score", "stages", "difference", "rank_sum") if getattr(self, name) is not None]
        if len(ordered) > 1:
            raise ValueError(f"a selection has one order: leave out {ordered[0]!r} or {ordered[1]!r}")
        if self.stages is not None and any(getattr(self, name) != value for name, value in _ALL.items()):
            raise ValueError("stages have a criterion, rate, unit and within of their own: leave these out beside them")
        if ordered and self.per is not None:
            raise ValueError(f"'per' is for the order by NLL: leave out 'per' or {ordered[0]!r}")
        if self.criterion == "random" and self.per is not None:
            raise ValueError("a random selection is in no order of perplexity: leave out 'per'")
        if self.criterion == "random" and ordered:
            raise ValueError(f"a random selection is in no order of a score: leave out {ordered[0]!r}")
        if self.criterion != "random" and self.seed is not None:
            raise ValueError(f"a {self.criterion} selection leaves nothing to chance: leave out 'seed'")
        return self

    @property
    def id(self) -> str:
        """The name, or an id made of the fields, such as `medium-0.5`, `low-0.25-tokens-domain` or `high-0.1-edu`."""
        if self.name is not None:
            return self.name
        if self.stages is not None:
            return self.order.name
        parts = [self.criterion, repr(self.rate).removesuffix(".0")]
        if self.unit == "tokens":
            parts.append("tokens")
        if self.within is not None:
            parts.append(self.within)
        if self.per is not None:
            parts.append(self.per)
        if self.seed:
            parts.append(f"seed{self.seed}")
        if self.score is not None:
            parts.append(self.score)
        if self.difference is not None:
            parts.append("-minus-".join(self.difference))
        if self.rank_sum is not None:
            parts.append(f"ranks-{short_digest(self.rank_sum)}")
        return "-".join(parts)

    @property
    def order(self) -> Order:
        """The order whose ranks it keeps."""
        if self.seed is not None:
            return Order("hash", self.seed)
        if self.score is not None:
            return Order("score", column=self.score)
        if self.stages is not None:
            return Order("stages", stages=self.stages)
        if self.difference is not None:
            return Order("difference", terms=((self.difference[0], 1), (self.difference[1], -1)))
        if self.rank_sum is not None:
            return Order("rank_sum", terms=self.rank_sum, within=self.within is not None)
        return BY_TOKEN if self.per is None else BY_BYTE

    @property
    def scores(self) -> tuple[str | None, ...]:
        """The scores that it uses; None for NLL per token or byte of the reference."""
        if self.stages is not None:
            return tuple(stage.score for stage in self.stages if stage.criterion != "random")
        if self.criterion == "random":
            return ()
        return tuple(name for name, _ in self.order.terms) or (self.score,)

    @property
    def in_domains(self) -> bool:
        """Whether anything is selected inside each domain."""
        return self.within is not None or any(stage.within is not None for stage in self.stages or ())

    @property
    def counts_tokens(self) -> bool:
        """Whether any rate is of tokens."""
        return self.unit == "tokens" or any(stage.unit == "tokens" for stage in self.stages or ())

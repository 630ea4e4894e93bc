"""Request models: which corpus to read, and which selections to make of it."""

from typing import Annotated, Any, Literal, NamedTuple

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


class Order(NamedTuple):
    """What documents are ranked by: NLL per token, which is perplexity; NLL per byte; a hash with a seed; a score."""

    by: Literal["token", "byte", "hash", "score"]
    seed: int = 0
    column: str = ""  # of the table of scores

    @property
    def name(self) -> str:
        """Such as `byte`, `hash-3` or `score-edu`."""
        more = {"hash": f"-{self.seed}", "score": f"-{self.column}"}
        return f"{self.by}{more.get(self.by, '')}"


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


class SelectionSpec(BaseModel):
    """A selection: which part of the documents, ordered by a score, is kept, or how many of them at random."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    criterion: Criterion = "medium"
    rate: float = Field(0.5, gt=0, le=1, description="The share that is kept.")
    unit: Literal["documents", "tokens"] = "documents"
    within: Literal["domain"] | None = Field(None, description="Apply the selection inside each domain.")
    per: Per = None
    seed: Seed = None
    score: ScoreName = None

    @model_validator(mode="before")
    @classmethod
    def _random_has_a_seed(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("criterion") == "random" and fields.get("seed") is None:
            return fields | {"seed": 0}
        return fields

    @model_validator(mode="after")
    def _order_fits_criterion(self) -> "SelectionSpec":
        if self.criterion == "random" and self.per is not None:
            raise ValueError("a random selection is in no order of perplexity: leave out 'per'")
        if self.score is not None and self.per is not None:
            raise ValueError("'per' is for the order by NLL: leave out 'per' or 'score'")
        if self.score is not None and self.criterion == "random":
            raise ValueError("a random selection is in no order of a score: leave out 'score'")
        if self.criterion != "random" and self.seed is not None:
            raise ValueError(f"a {self.criterion} selection leaves nothing to chance: leave out 'seed'")
        return self

    @property
    def id(self) -> str:
        """The id derived from the fields, such as `medium-0.5`, `low-0.25-tokens-domain` or `high-0.1-edu`."""
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
        return "-".join(parts)

    @property
    def order(self) -> Order:
        """The order whose ranks it keeps."""
        if self.seed is not None:
            return Order("hash", self.seed)
        if self.score is not None:
            return Order("score", column=self.score)
        return BY_TOKEN if self.per is None else BY_BYTE

"""Request models: which corpus to read, and which selections to make of it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FieldName = Annotated[str, Field(min_length=1, max_length=200)]
Glob = Annotated[str, Field(min_length=1, max_length=4096)]


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


class SelectionSpec(BaseModel):
    """A selection: which part of the documents, ordered by perplexity, is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    criterion: Literal["low", "medium", "high"] = "medium"
    rate: float = Field(0.5, gt=0, le=1, description="The share that is kept.")
    unit: Literal["documents", "tokens"] = "documents"
    within: Literal["domain"] | None = Field(None, description="Apply the selection inside each domain.")

    @property
    def id(self) -> str:
        """The id derived from the fields, such as `medium-0.5` or `low-0.25-tokens-domain`."""
        parts = [self.criterion, repr(self.rate).removesuffix(".0")]
        if self.unit == "tokens":
            parts.append("tokens")
        if self.within is not None:
            parts.append(self.within)
        return "-".join(parts)

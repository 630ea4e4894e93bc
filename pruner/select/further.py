"""Columns that the table of scores has beside those of the reference: of further scorers, and of the token prior."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pruner.select.perplexity import score_key
from pruner.tables.part_file import read_part
from pruner.tables.records import Record
from pruner.tables.shard_scores import ShardCounts
from pruner.tables.storage import Storage
from pruner.tables.values import PRIOR, VALUE, ValueCounts

BEST = 5.0  # the largest integer score


class Part(NamedTuple):
    """The columns of a shard, and what the scorer says of itself."""

    columns: dict[str, Any]  # Arrow arrays [rows] by name
    scorer: dict[str, Any]


@dataclass(frozen=True)
class Further:
    """A source of columns: a file for each shard, row-aligned with the documents files."""

    fields: tuple[Any, ...]  # Arrow fields; the first is the value
    paths: Sequence[str]
    kind: type[ShardCounts] | type[ValueCounts]
    make: Callable[[pa.Table], list[Any]]

    @property
    def name(self) -> str:
        """The column of its value."""
        return str(self.fields[0].name)

    def read(self, storage: Storage, path: str) -> Part:
        """The columns of a shard. Raises FileNotFoundError, and InputError as `read_part` does."""
        table, about = read_part(storage, path, self.kind)
        values = [column.combine_chunks() for column in self.make(table)]
        names = [field.name for field in self.fields]
        return Part(dict(zip(names, values, strict=True)), _said(about))


def _said(about: Record) -> dict[str, Any]:
    found: dict[str, Any] = about.scorer  # type: ignore[attr-defined]
    return found


def of_reference(name: str, paths: Sequence[str]) -> Further:
    """A further reference: its NLL a token, its NLL and its tokens."""
    fields = (
        pa.field(name, pa.float64()),
        pa.field(f"{name}_nll", pa.float64()),
        pa.field(f"{name}_n_tokens", pa.int64()),
    )
    return Further(fields, paths, ShardCounts, _of_reference)


def _of_reference(table: pa.Table) -> list[Any]:
    nll, n_tokens = (table[name].to_numpy().astype(np.float64) for name in ("nll", "n_tokens"))
    key = score_key(nll, n_tokens)
    value = pa.chunked_array([pa.array(key, pa.float64(), mask=np.isnan(key))])
    return [value, table["nll"], table["n_tokens"].cast(pa.int64())]


def of_classifier(name: str, paths: Sequence[str]) -> Further:
    """A classifier: its value, and the integer of it."""
    fields = pa.field(name, pa.float32()), pa.field(f"{name}_int", pa.int64())
    return Further(fields, paths, ValueCounts, lambda table: [table[VALUE], int_score(table[VALUE])])


def int_score(values: Any) -> Any:
    """FineWeb-Edu's integer score: the value as a whole number from 0 to 5, halves to the even one."""
    limited = pc.min_element_wise(pc.max_element_wise(values, 0.0, skip_nulls=False), BEST, skip_nulls=False)
    return pc.round(limited, round_mode="half_to_even").cast(pa.int64())


def of_field(name: str, paths: Sequence[str]) -> Further:
    """A field of the corpus: its number."""
    return Further((pa.field(name, pa.float64()),), paths, ValueCounts, lambda table: [table[VALUE]])


def of_prior(_name: str, paths: Sequence[str]) -> Further:
    """The mean and the deviation of the token prior, whose columns have names of their own."""
    return Further(tuple(PRIOR), paths, ValueCounts, lambda table: [table[name] for name in PRIOR.names])

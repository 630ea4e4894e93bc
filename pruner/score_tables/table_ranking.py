"""Rankings of the rows of score tables: which rows are ranked, by which key, in which group."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pruner.corpus.row_hash import row_hash
from pruner.errors import InputError
from pruner.ranks.parts import RankedRows
from pruner.ranks.sort_keys import float_of, ordered_bits
from pruner.score_tables.tables import TablePart, Tables
from pruner.select.order import SELECTIONS_SEED
from pruner.spec import BY_TOKEN, Order, SelectionSpec

_OWN = ("nll", "n_tokens", "training", "reject")  # the columns by which Winnow's tables of scores are known


class Keys(NamedTuple):
    """The keys of some rows: `key` uint64 [R]; `missing` bool [R], of rows without one, for the reason `why`."""

    key: np.ndarray
    missing: np.ndarray
    why: str


class RankKey(NamedTuple):
    """What rows are ranked by. `of` gives the keys of the rows of a part, read with these columns."""

    name: str
    columns: tuple[str, ...]
    of: Callable[[pa.Table, TablePart], Keys]
    value: Callable[[int], float]  # the number that a key was made of


class TableRanking:
    """Ranks the rows of score tables that have a key, inside their domain if `within` is set."""

    def __init__(self, tables: Tables, rank_key: RankKey, *, tokens: bool, within: bool) -> None:
        """With `tokens`, rows without a number of tokens are not ranked."""
        self.rank_key, self._tables, self._within = rank_key, tables, within
        self._own = is_own(tables.schema)
        self._tokens = tokens
        names = tables.schema.names
        self.counts_tokens = "n_tokens" in names and pa.types.is_integer(tables.schema.field("n_tokens").type)
        self._codes: dict[object, int] = {}
        self._left_out: dict[int, Counter[str]] = {}
        self._lock = threading.Lock()
        optional = [(self.counts_tokens, "n_tokens"), (within, "domain")]
        own = [(self._own, name) for name in ("training", "reject")]
        wanted = [name for needed, name in (*optional, *own) if needed]
        self._columns = list(dict.fromkeys([*rank_key.columns, *wanted]))

    @property
    def parts(self) -> int:
        """The number of parts."""
        return len(self._tables.parts)

    @property
    def groups(self) -> int:
        """The number of groups that were read."""
        return max(1, len(self._codes))

    @property
    def left_out(self) -> dict[str, int]:
        """How many rows are not ranked, by reason, of the parts that were read."""
        return dict(sorted(sum(self._left_out.values(), Counter[str]()).items()))

    def read(self, part: int) -> RankedRows:
        """The ranked rows of a part. Raises InputError."""
        at = self._tables.parts[part]
        rows = self._tables.read(part, self._columns)
        reasons = Counter[str]()
        ranked = np.ones(at.rows, dtype=bool)

        def leave_out(why: str, mask: np.ndarray) -> None:
            reasons[why] += int(np.count_nonzero(ranked & mask))
            ranked[mask] = False

        if self._own:
            leave_out("rejects", _mask(pc.is_valid(rows["reject"])))
            leave_out("rows that trained the reference", _mask(pc.fill_null(rows["training"], fill_value=False)))
        found = self.rank_key.of(rows, at)
        leave_out(found.why, found.missing)
        tokens = None
        if self.counts_tokens:
            tokens, missing = whole_numbers(rows["n_tokens"])
            if self._tokens:
                leave_out("rows without n_tokens", missing)
                if (tokens[ranked] < 0).any():
                    raise InputError(f"{self._tables.tables[at.table].path.url}: has negative n_tokens; correct them")
            tokens = np.maximum(tokens, 0)
        row = np.flatnonzero(ranked)
        group = self._group(rows["domain"])[row] if self._within else None
        with self._lock:
            self._left_out[part] = reasons
        dense = len(row) == at.rows
        key = found.key if dense else found.key[row]
        return RankedRows(row, key, group, tokens if tokens is None or dense else tokens[row])

    def _group(self, domain: pa.ChunkedArray) -> np.ndarray:
        if pa.types.is_dictionary(domain.type):
            domain = domain.cast(domain.type.value_type)
        encoded = domain.combine_chunks().dictionary_encode(null_encoding="encode")
        names = encoded.dictionary.to_pylist()
        with self._lock:
            codes = [self._codes.setdefault(name, len(self._codes)) for name in names]
        return np.asarray(np.array(codes, dtype=np.int64)[encoded.indices.to_numpy()])


def is_own(schema: pa.Schema) -> bool:
    """Whether these are Winnow's tables of scores, with rows that no selection is made of."""
    names = set(schema.names)
    return names.issuperset(_OWN) and pa.types.is_boolean(schema.field("training").type)


def rank_key(tables: Tables, column: str | None, order: Order) -> RankKey:
    """What an order ranks the rows by: a column, a mean NLL, or a hash. Raises InputError for missing columns.

    A hash ranks the rows that have a number in the column, or a mean NLL, so that a random selection has the same N.
    """
    if order.by == "hash":
        return _by_hash(rank_key(tables, column, BY_TOKEN), order.seed)
    if column is not None:
        kind = _type_of(tables, column, "")
        if not is_numeric(kind):
            raise InputError(f"the column {column!r} holds {kind}, not numbers; {_choices(tables)}")
        return RankKey(column, (column,), lambda rows, _at: column_keys(rows[column], column), _value_of(kind))
    divisor = "n_bytes" if order.by == "byte" else "n_tokens"
    for name in ("nll", divisor):
        kind = _type_of(tables, name, f"; {_choices(tables)}")
        if not is_numeric(kind):
            raise InputError(f"the column {name!r} holds {kind}, not numbers; {_choices(tables)}")
    return RankKey(
        f"nll / {divisor}", ("nll", divisor), lambda rows, _at: _mean_keys(rows, divisor), _value_of(pa.float64())
    )


def check_columns(tables: Tables, spec: SelectionSpec) -> None:
    """Raises InputError where a selection needs a column that the tables do not have."""
    if spec.unit == "tokens":
        kind = _type_of(tables, "n_tokens", ", which the unit tokens needs: select by documents")
        if not pa.types.is_integer(kind):
            raise InputError(f"the column 'n_tokens' holds {kind}; the unit tokens needs integers")
    if spec.within is not None:
        kind = _type_of(tables, "domain", ", within which to select")
        if pa.types.is_nested(kind):
            raise InputError(f"the column 'domain' holds {kind}; a domain is a string or a number")


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type can be ranked by."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _choices(tables: Tables) -> str:
    names = [field.name for field in tables.schema if is_numeric(field.type)]
    return f"--key can be {', '.join(names)}" if names else "none of its columns holds numbers"


def _type_of(tables: Tables, name: str, hint: str) -> pa.DataType:
    if name not in tables.schema.names:
        raise InputError(f"{tables.tables[0].path.url}: has no column {name!r}{hint or '; ' + _choices(tables)}")
    return tables.schema.field(name).type


def column_keys(column: pa.ChunkedArray, name: str) -> Keys:
    """The keys of a numeric column; nulls and NaN have none."""
    why = f"rows without a number in {name!r}"
    if pa.types.is_integer(column.type):
        missing = _mask(pc.is_null(column))
        values = (pc.fill_null(column, 0) if column.null_count else column).to_numpy()
        return Keys(ordered_bits(values), missing, why)
    values = floats(column)
    missing = np.isnan(values)
    return Keys(ordered_bits(np.where(missing, 0.0, values) if missing.any() else values), missing, why)


def _value_of(kind: pa.DataType) -> Callable[[int], float]:
    if pa.types.is_signed_integer(kind):
        return lambda key: key - (1 << 63)
    if pa.types.is_unsigned_integer(kind):
        return lambda key: key
    return lambda key: float(float_of(np.array([key], dtype=np.uint64))[0])


def _mean_keys(rows: pa.Table, divisor: str) -> Keys:
    nll, by = floats(rows["nll"]), floats(rows[divisor])
    with np.errstate(divide="ignore", invalid="ignore"):
        key = nll / by
    missing = np.isnan(key) | ~(by > 0)
    if missing.any():
        key[missing] = 0.0
    return Keys(ordered_bits(key), missing, f"rows without nll or {divisor}")


def _by_hash(ranked: RankKey, seed: int) -> RankKey:
    def of(rows: pa.Table, at: TablePart) -> Keys:
        number = np.arange(at.first_row, at.first_row + at.rows)
        return ranked.of(rows, at)._replace(key=row_hash(SELECTIONS_SEED + seed, at.table, number))

    return RankKey("random", ranked.columns, of, float)


def floats(column: pa.ChunkedArray) -> np.ndarray:
    """The values as float64; NaN for nulls."""
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy().astype(np.float64, copy=False))


def whole_numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The values as int64, 0 for nulls, and a mask of the nulls."""
    missing = _mask(pc.is_null(column))
    filled = pc.fill_null(column, 0) if column.null_count else column
    return filled.to_numpy().astype(np.int64, copy=False), missing


def _mask(values: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(values.to_numpy(), dtype=bool)

"""What the rows of a table are ranked by: functions from columns of a part to sort keys."""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pruner.corpus.row_hash import row_hash
from pruner.errors import InputError
from pruner.ranks.sort_keys import float_of, ordered_bits
from pruner.tables.parquet_parts import TablePart

_SELECTIONS = 1 << 63  # added to seeds, which are smaller, so that no train split draws by the same hash


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
    value: Callable[[int], float | None] = lambda _key: None  # the number that a key was made of; None of a hash
    by_token: bool = False  # whether keys are nll / n_tokens


def column_key(name: str, kind: pa.DataType) -> RankKey:
    """The order by a numeric column; rows with null or NaN are not ranked. `of` raises InputError for long decimals."""
    why = f"rows without a number in {name!r}"

    def of(rows: pa.Table, _at: TablePart) -> Keys:
        column = rows[name]
        if pa.types.is_integer(kind):
            missing = np.asarray(pc.is_null(column).to_numpy())
            values = (pc.fill_null(column, 0) if column.null_count else column).to_numpy()
            return Keys(ordered_bits(values), missing, why)
        if pa.types.is_decimal(kind):
            return Keys(ordered_bits(_unscaled(name, column)), np.asarray(pc.is_null(column).to_numpy()), why)
        return _of_floats(floats(column), why)

    if pa.types.is_decimal(kind):
        scale = Fraction(10) ** -kind.scale
        return RankKey(name, (name,), of, lambda key: float((key - (1 << 63)) * scale))
    if pa.types.is_signed_integer(kind):
        return RankKey(name, (name,), of, lambda key: key - (1 << 63))
    return RankKey(name, (name,), of, int if pa.types.is_unsigned_integer(kind) else _float)


def mean_key(divisor: str) -> RankKey:
    """The order by nll / `divisor`, a column of tokens or bytes; rows without both are not ranked."""
    columns = ("nll", divisor)

    def of(rows: pa.Table, _at: TablePart) -> Keys:
        nll, by = (floats(rows[name]) for name in columns)
        with np.errstate(divide="ignore", invalid="ignore"):
            key = nll / by
        key[~((by > 0) & np.isfinite(nll))] = np.nan
        return _of_floats(key, f"rows without nll or {divisor}")

    return RankKey(" / ".join(columns), columns, of, _float, by_token=divisor == "n_tokens")


def no_key() -> RankKey:
    """The order of the rows in the table, all of which are ranked."""

    def of(_rows: pa.Table, at: TablePart) -> Keys:
        return Keys(np.zeros(at.rows, dtype=np.uint64), np.zeros(at.rows, dtype=bool), "")

    return RankKey("place", (), of)


def hash_key(seed: int, ranked: RankKey) -> RankKey:
    """The order by a hash of (seed, table, row), of the rows that another order ranks."""

    def of(rows: pa.Table, at: TablePart) -> Keys:
        number = np.arange(at.first_row, at.first_row + at.rows)
        return ranked.of(rows, at)._replace(key=selection_hash(seed, at.table, number))

    return RankKey("random", ranked.columns, of)


def selection_hash(seed: int, file: int | np.ndarray, row: np.ndarray) -> np.ndarray:
    """The hash by which random selections draw rows of files, uint64 [R]. `file` is one number or int [R]."""
    return row_hash(_SELECTIONS + seed, file, row)


def floats(column: pa.ChunkedArray) -> np.ndarray:
    """The values as float64; NaN for nulls."""
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy().astype(np.float64, copy=False))


def _unscaled(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Decimals as multiples of their last digit, int64, exactly; 0 for nulls.

    Raises InputError for a multiple of more than 64 bits.
    """
    whole = pa.decimal128(38, 0)
    try:
        chunks = column.cast(pa.decimal128(38, column.type.scale)).chunks
        digits = [pa.Array.from_buffers(whole, len(one), one.buffers(), offset=one.offset) for one in chunks]
        numbers = pa.chunked_array(digits, whole).cast(pa.int64())
    except pa.ArrowInvalid:
        raise InputError(
            f"the column {name!r} has decimals of more than 18 digits, which are not compared: write it as float64"
        ) from None
    return np.asarray(pc.fill_null(numbers, 0).to_numpy())


def _of_floats(values: np.ndarray, why: str) -> Keys:
    missing = np.isnan(values)
    return Keys(ordered_bits(np.where(missing, 0.0, values) if missing.any() else values), missing, why)


def _float(key: int) -> float:
    return float(float_of(np.array([key], dtype=np.uint64))[0])

"""Rankings of the rows of tables: which rows are ranked, by which key, in which domain."""

import threading
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pruner.errors import InputError
from pruner.ranks.parts import RankedRows
from pruner.ranks.rank_key import RankKey
from pruner.tables.parquet_parts import PartedTable

_NAN = "NaN", 0  # equal to no other domain
_OWN = ("nll", "n_tokens", "training", "reject")  # the columns by which Winnow's tables of scores are known


class TableRanking:
    """Ranks the rows of a table that have a key, inside their domain if `within` is set."""

    def __init__(
        self, table: PartedTable, rank_key: RankKey, *, tokens: bool, within: bool, domains: Iterable[object] = ()
    ) -> None:
        """With `tokens`, rows without a number of tokens are not ranked.

        `domains` are known ones: their groups are numbered in this order, others as they are met.
        """
        names = set(table.schema.names)
        self.rank_key, self._table, self._within, self._tokens = rank_key, table, within, tokens
        self.counts_tokens = "n_tokens" in names and pa.types.is_integer(table.schema.field("n_tokens").type)
        self._own = names.issuperset(_OWN) and pa.types.is_boolean(table.schema.field("training").type)
        self._codes = {name: code for code, name in enumerate(domains)}
        self._left_out: dict[int, Counter[str]] = {}
        self._lock = threading.Lock()
        needed = ((self.counts_tokens, "n_tokens"), (within, "domain"), (self._own, "training"), (self._own, "reject"))
        self._columns = list(dict.fromkeys([*rank_key.columns, *(name for wanted, name in needed if wanted)]))

    @property
    def parts(self) -> int:
        """The number of parts."""
        return len(self._table.parts)

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
        at = self._table.parts[part]
        rows = self._table.read(part, self._columns)
        ranked, left_out = np.ones(at.rows, dtype=bool), Counter[str]()

        def leave_out(why: str, mask: np.ndarray) -> None:
            left_out[why] += int(np.count_nonzero(ranked & mask))
            ranked[mask] = False

        if self._own:
            leave_out("rejects", _mask(pc.is_valid(rows["reject"])))
            leave_out("rows that trained the reference", _mask(pc.fill_null(rows["training"], fill_value=False)))
        found = self.rank_key.of(rows, at)
        leave_out(found.why, found.missing)
        tokens = None
        if self.counts_tokens:
            tokens, missing = _whole_numbers(rows["n_tokens"])
            if self._tokens:
                leave_out("rows without n_tokens", missing)
                if (tokens[ranked] < 0).any():
                    raise InputError(f"{self._table.name(at.table)}: has negative n_tokens; correct them")
            tokens = np.maximum(tokens, 0)
        row = np.flatnonzero(ranked)
        group = self._group(rows["domain"], row) if self._within else None
        with self._lock:
            self._left_out[part] = left_out
        dense = len(row) == at.rows
        key = found.key if dense else found.key[row]
        return RankedRows(row, key, group, tokens if tokens is None or dense else tokens[row])

    def _group(self, domain: pa.ChunkedArray, row: np.ndarray) -> np.ndarray:
        if pa.types.is_dictionary(domain.type):
            domain = domain.cast(domain.type.value_type)
        encoded = domain.take(pa.array(row)).combine_chunks().dictionary_encode(null_encoding="encode")
        names = encoded.dictionary.to_pylist()
        with self._lock:
            # NaN differs from itself; rows with NaN are one domain all the same.
            codes = [self._codes.setdefault(name if name == name else _NAN, len(self._codes)) for name in names]
        return np.asarray(np.array(codes, dtype=np.int64)[encoded.indices.to_numpy()])


def _whole_numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The values as int64, 0 for nulls, and a mask of the nulls."""
    filled = pc.fill_null(column, 0) if column.null_count else column
    return filled.to_numpy().astype(np.int64, copy=False), _mask(pc.is_null(column))


def _mask(values: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(values.to_numpy(), dtype=bool)

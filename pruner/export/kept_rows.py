"""The kept rows of a file as the reader process has them: in order, a piece at a time."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from pruner.errors import InputError
from pruner.export.protocol import ROW

Item = TypeVar("Item")


class KeptRows:
    """The kept rows that were not taken yet. `added` is the schema of the columns to add to them."""

    def __init__(self, fetch: Callable[[int], pa.RecordBatch], rows: int, url: str) -> None:
        """`fetch` gives a piece by its number; there are `rows` rows in all, at least one, of the file `url`."""
        self._fetch, self._url = fetch, url
        self._pieces, self._left = 0, rows  # pieces that were fetched, and rows that were not
        self._at = 0  # of the piece
        self._next_piece()
        self.added = pa.schema(list(self._piece.schema)[1:])

    @property
    def next(self) -> int | None:
        """The next kept row, or None after the last one."""
        return int(self._rows[self._at]) if self._at < len(self._rows) else None

    def take(self, stop: int) -> pa.RecordBatch:
        """The kept rows below `stop`: their numbers in the column `row`, and the columns to add."""
        parts: list[pa.RecordBatch] = []
        while self.next is not None and self.next < stop:
            start, self._at = self._at, int(np.searchsorted(self._rows, stop))
            parts.append(self._piece.slice(start, self._at - start))
            self._refill()
        return pa.concat_batches(parts) if parts else self._piece.slice(0, 0)

    def pick(self, items: Iterable[Item], first: int) -> Iterator[tuple[int, Item, dict[str, Any]]]:
        """The items of kept rows: row, item, and the values to add to it. The first item is that of row `first`.

        Raises InputError if a kept row has no item.
        """
        kept = self._each()
        row, added = next(kept)
        for number, item in enumerate(items, first):
            if number == row:
                yield row, item, added
                found = next(kept, None)
                if found is None:
                    return
                row, added = found
        raise self.missing(row)

    def missing(self, row: int) -> InputError:
        """The error to raise for a kept row that the file does not have."""
        return InputError(f"{self._url}: row {row:,} is to be exported, but is not there; submit the job again")

    def no_document(self, row: int, reason: str) -> InputError:
        """The error to raise for a kept row that is no document."""
        return InputError(
            f"{self._url}: row {row:,} is to be exported, but is no document ({reason}); submit the job again"
        )

    def check_names(self, names: Collection[str]) -> None:
        """Raises InputError naming the file if one of its names is that of a column to add."""
        for name in self.added.names:
            if name in names:
                raise InputError(f"{self._url}: has a column {name!r} already; export it without scores")

    def _each(self) -> Iterator[tuple[int, dict[str, Any]]]:
        while self.next is not None:
            piece = self._piece.select(self.added.names)
            added = piece.to_pylist() if self.added.names else [{}] * len(self._rows)
            yield from zip(self._rows.tolist(), added, strict=True)
            self._at = len(self._rows)
            self._refill()

    def _refill(self) -> None:
        if self._at == len(self._rows) and self._left:
            self._next_piece()

    def _next_piece(self) -> None:
        self._piece = self._fetch(self._pieces)
        self._rows, self._at = self._piece[ROW].to_numpy(), 0
        self._pieces, self._left = self._pieces + 1, self._left - len(self._piece)

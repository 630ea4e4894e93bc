"""What an order of documents is read from: the parts of a table, each with the sort keys of its rows."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

Result = TypeVar("Result")

PLACE_BITS = 32  # of a place, for the row in the part


class RankedRows(NamedTuple):
    """The rows of a part that are ranked, in the order of the table. All arrays are [R]."""

    row: np.ndarray  # int64, rows of the part, ascending
    key: np.ndarray  # uint64, see sort_keys.py
    group: np.ndarray | None = None  # int64 from 0: rows are ranked inside their group
    tokens: np.ndarray | None = None  # int64, not negative; None where they are not known


class Ranking(Protocol):
    """An order of the rows of a table: by (group, key, part, row)."""

    @property
    def parts(self) -> int:
        """The number of parts of the table."""

    @property
    def groups(self) -> int:
        """The number of groups, known when all parts were read; 1 without groups."""

    def read(self, part: int) -> RankedRows:
        """The ranked rows of a part, the same at each call. Several threads may call it."""


def places(part: int, row: np.ndarray) -> np.ndarray:
    """The place of rows in the table, uint64 [R]: documents with equal keys are ranked by it."""
    return np.asarray(row.astype(np.uint64) | np.uint64(part << PLACE_BITS))


class Workers:
    """Threads that run a function for each of some numbers. Arrow and NumPy leave the interpreter to the others."""

    def __init__(self, threads: int, on_done: Callable[[int], None] = lambda _done: None) -> None:
        """`on_done` gets the count of results that were taken, after each."""
        self._threads, self._on_done = threads, on_done

    def run(self, function: Callable[[int], Result], count: int) -> Iterator[Result]:
        """The results for 0, 1, … in this order. At most two results a thread are held at a time."""
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: deque[Future[Result]] = deque()
            try:
                for number in range(count + 2 * self._threads):
                    if number < count:
                        waiting.append(pool.submit(function, number))
                    if number >= 2 * self._threads and waiting:
                        yield waiting.popleft().result()
                        self._on_done(number - 2 * self._threads + 1)
            finally:
                for future in waiting:
                    future.cancel()

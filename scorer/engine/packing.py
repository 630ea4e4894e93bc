"""Groups windows into batches by a fixed rule: the same windows in the same order always give the same batches.

A batch is a pack: windows one after the other, without padding. A model that takes packs reads them as they are, so
they are filled to the budget; any other reads the windows as rows padded to the longest, so a batch has windows of like
length. A window that is longer than the budget is a batch alone, except for a recurrent model, which reads it in parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scorer.causal_lm.budget import long_documents_per_pack
from scorer.engine.windows import Window

_PASSED = 1 << 22  # tokens that may pass an open pack by: its documents' blocks, and all after them, wait for it
_PASSED_LONG = 1 << 24  # the same for a long document that waits for others
_CHUNK = 64  # of the SSD's kernels: parts are multiples of it, so that these cut them as the whole
_OPEN = 8  # packs that are filled at the same time: with them next to nothing is left empty
_SORTED = 1 << 20  # tokens that are gathered to be sorted by length


def batches(windows: Iterable[Window], budget: int, packed: bool, recurrent: bool) -> Iterator[list[Window]]:
    """Batches of up to `budget` positions, those of a batch in the order they lie in.

    Each window is in exactly one, but those of a `recurrent` model that are longer than half the budget: they are read
    in parts, in several batches, each of which goes on from the state after the one before.
    """
    grouped: _Packs | _Rows = _Packs(budget) if packed else _Rows(budget)
    long = _Long(budget, long_documents_per_pack(budget) if packed else 1)
    tokens = 0
    for window in windows:
        tokens += window.length
        yield from grouped.passed(tokens)
        yield from long.passed(tokens)
        if recurrent and 2 * window.length > budget:
            yield from long.add(window, tokens)
        elif window.length >= budget:
            yield [window]
        else:
            yield from grouped.add(window, tokens)
    yield from grouped.rest()
    yield from long.rest()


class _Long:
    """Reads as many long windows side by side as there are lanes, a part of each in a batch.

    Side by side the SSD cuts none of them; one alone, which would fill a pack, it has to, and looks at a piece twice.
    Where too few are left they are read one after the other.
    """

    def __init__(self, budget: int, lanes: int) -> None:
        self._budget = budget
        self._lanes = lanes
        self._open: list[tuple[Window, int]] = []  # what is left of each, and the tokens that had come with it

    def add(self, window: Window, tokens: int) -> Iterator[list[Window]]:
        """`tokens` have come, this window's among them."""
        self._open.append((window, tokens))
        size = _whole_chunks(self._budget // self._lanes)
        while len(self._open) == self._lanes:
            split = [(window.split(size), begun) for window, begun in self._open]
            self._open = [(rest, begun) for (_, rest), begun in split if rest is not None]
            yield [part for (part, _), _ in split]

    def passed(self, tokens: int) -> Iterator[list[Window]]:
        """What is due where so many tokens have come."""
        if self._open and tokens - self._open[0][1] > _PASSED_LONG:
            yield from self.rest()

    def rest(self) -> Iterator[list[Window]]:
        """All that is left."""
        batch: list[Window] = []
        room = self._budget
        for window, _ in self._open:
            rest: Window | None = window
            while rest is not None:
                if batch and rest.length > room and room < _CHUNK:
                    yield batch
                    batch, room = [], self._budget
                part, rest = rest.split(room if rest.length <= room else _whole_chunks(room))
                batch.append(part)
                room -= part.length
        if batch:
            yield batch
        self._open = []


@dataclass(eq=False)
class _Pack:
    """One that is being filled."""

    windows: list[Window]
    room: int  # positions that are left
    begun: int  # tokens that had come with it


class _Packs:
    """Best fit into a few open packs; where a window fits into none, the fullest is done, and so is one left behind."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._open: list[_Pack] = []  # in the order in which they were begun

    def add(self, window: Window, tokens: int) -> Iterator[list[Window]]:
        """`tokens` have come, this window's among them."""
        fitting = [pack for pack in self._open if pack.room >= window.length]
        if fitting:
            chosen = min(fitting, key=lambda pack: pack.room)
        else:
            if len(self._open) == _OPEN:
                yield self._done(min(self._open, key=lambda pack: pack.room))
            chosen = _Pack([], self._budget, tokens)
            self._open.append(chosen)
        chosen.windows.append(window)
        chosen.room -= window.length
        if not chosen.room:
            yield self._done(chosen)

    def passed(self, tokens: int) -> Iterator[list[Window]]:
        """What is due where so many tokens have come."""
        if self._open and tokens - self._open[0].begun > _PASSED:
            yield self._done(self._open[0])

    def rest(self) -> Iterator[list[Window]]:
        """All that is left."""
        while self._open:
            yield self._done(self._open[0])

    def _done(self, pack: _Pack) -> list[Window]:
        self._open.remove(pack)
        return _longest_first(pack.windows)


class _Rows:
    """Windows of like length, those of equal length in order; rows x longest stay in the budget."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._gathered: list[Window] = []
        self._begun = 0  # tokens that had come with the first

    def add(self, window: Window, tokens: int) -> Iterable[list[Window]]:
        """`tokens` have come, this window's among them. None is due until more have passed."""
        if not self._gathered:
            self._begun = tokens
        self._gathered.append(window)
        return ()

    def passed(self, tokens: int) -> Iterator[list[Window]]:
        """What is due where so many tokens have come."""
        if self._gathered and tokens - self._begun > _SORTED:
            yield from self.rest()

    def rest(self) -> Iterator[list[Window]]:
        """All that is left."""
        batch: list[Window] = []
        for window in _longest_first(self._gathered):
            if batch and (len(batch) + 1) * batch[0].length > self._budget:
                yield batch
                batch = []
            batch.append(window)
        if batch:
            yield batch
        self._gathered = []


def _whole_chunks(size: int) -> int:
    return size // _CHUNK * _CHUNK or size


def _longest_first(windows: list[Window]) -> list[Window]:
    """The long ones first, so that none is left for the end of a kernel; equal ones in order."""
    return sorted(windows, key=lambda window: -window.length)

"""Groups windows into batches by a fixed rule: the same windows in the same order always give the same batches.

A batch is a pack: windows one after the other, without padding. A model that reads packs gets packs filled to the
budget. Any other model reads the windows as rows padded to the longest, so its batches have windows of like length. A
window that is longer than the budget is a batch alone, except for a recurrent model, which reads it in parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scorer.causal_lm.budget import long_documents_per_pack
from scorer.engine.windows import Window

# Waiting limits, in tokens that come after a window: its document's block, and all blocks after it, wait for it.
_PACK_WAIT = 1 << 22
_LONG_WAIT = 1 << 24
_ROWS_WAIT = 1 << 20
_OPEN_PACKS = 8  # packs that are filled at the same time: with 8, next to nothing is left empty
_CHUNK = 64  # tokens of a chunk of the SSD kernels: parts are multiples of it, so they are chunked as the whole is


def batches(windows: Iterable[Window], budget: int, packed: bool, recurrent: bool) -> Iterator[list[Window]]:
    """Batches of up to `budget` positions; the windows of a batch are in the order in which they are laid out.

    Each window is in exactly one batch, except windows of a `recurrent` model that are longer than half the budget.
    These are read in parts, in several batches; each part starts from the state after the one before.
    """
    short: _PackFiller | _RowSorter = _PackFiller(budget) if packed else _RowSorter(budget)
    long = _LongWindows(budget, long_documents_per_pack(budget) if packed else 1)
    seen = 0  # tokens so far
    for window in windows:
        seen += window.length
        yield from short.flush_overdue(seen)
        yield from long.flush_overdue(seen)
        if recurrent and 2 * window.length > budget:
            yield from long.add(window, seen)
        elif window.length >= budget:
            yield [window]
        else:
            yield from short.add(window, seen)
    yield from short.flush()
    yield from long.flush()


class _LongWindows:
    """Reads a fixed number of long windows side by side, a part of each in a batch.

    Side by side, no part is so long that the SSD kernels have to cut it. A single part that fills a pack they cut into
    segments, and read each twice. Windows that are left over are read one after the other.
    """

    def __init__(self, budget: int, side_by_side: int) -> None:
        self._budget = budget
        self._side_by_side = side_by_side
        self._open: list[tuple[Window, int]] = []  # what is left of each window, and `seen` when it came

    def add(self, window: Window, seen: int) -> Iterator[list[Window]]:
        """`seen` tokens have come, this window's included."""
        self._open.append((window, seen))
        size = _whole_chunks(self._budget // self._side_by_side)
        while len(self._open) == self._side_by_side:
            split = [(window.split(size), came) for window, came in self._open]
            self._open = [(rest, came) for (_, rest), came in split if rest is not None]
            yield [part for (part, _), _ in split]

    def flush_overdue(self, seen: int) -> Iterator[list[Window]]:
        """Flushes if the first window has waited longer than its limit."""
        if self._open and seen - self._open[0][1] > _LONG_WAIT:
            yield from self.flush()

    def flush(self) -> Iterator[list[Window]]:
        """Batches of all that is left."""
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
class _OpenPack:
    """A pack that is being filled."""

    windows: list[Window]
    room: int  # positions that are left
    opened: int  # `seen` when the first window came


class _PackFiller:
    """Best fit into a few open packs. A window that fits into none closes the fullest; an overdue pack is closed."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._open: list[_OpenPack] = []  # in the order in which they were opened

    def add(self, window: Window, seen: int) -> Iterator[list[Window]]:
        """`seen` tokens have come, this window's included."""
        fitting = [pack for pack in self._open if pack.room >= window.length]
        if fitting:
            chosen = min(fitting, key=lambda pack: pack.room)
        else:
            if len(self._open) == _OPEN_PACKS:
                yield self._close(min(self._open, key=lambda pack: pack.room))
            chosen = _OpenPack([], self._budget, seen)
            self._open.append(chosen)
        chosen.windows.append(window)
        chosen.room -= window.length
        if not chosen.room:
            yield self._close(chosen)

    def flush_overdue(self, seen: int) -> Iterator[list[Window]]:
        """Closes the oldest pack if it has waited longer than its limit."""
        if self._open and seen - self._open[0].opened > _PACK_WAIT:
            yield self._close(self._open[0])

    def flush(self) -> Iterator[list[Window]]:
        """Batches of all that is left."""
        while self._open:
            yield self._close(self._open[0])

    def _close(self, pack: _OpenPack) -> list[Window]:
        self._open.remove(pack)
        return _longest_first(pack.windows)


class _RowSorter:
    """Batches of windows of like length, equal ones in order; rows times the longest stay within the budget."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._gathered: list[Window] = []
        self._opened = 0  # `seen` when the first window came

    def add(self, window: Window, seen: int) -> Iterable[list[Window]]:
        """`seen` tokens have come, this window's included. Gives no batch: `flush_overdue` does."""
        if not self._gathered:
            self._opened = seen
        self._gathered.append(window)
        return ()

    def flush_overdue(self, seen: int) -> Iterator[list[Window]]:
        """Flushes if the first window has waited longer than its limit."""
        if self._gathered and seen - self._opened > _ROWS_WAIT:
            yield from self.flush()

    def flush(self) -> Iterator[list[Window]]:
        """Batches of all that is left."""
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
    """The size rounded down to whole chunks, but not to none."""
    return size // _CHUNK * _CHUNK or size


def _longest_first(windows: list[Window]) -> list[Window]:
    """The longest first, so that no long window is left for the end of a kernel; equal ones in order."""
    return sorted(windows, key=lambda window: -window.length)

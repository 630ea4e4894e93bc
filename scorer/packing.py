"""Groups windows into batches by a fixed rule: the same windows in the same order always give the same batches.

A batch is a pack: windows one after the other, without padding. A model that takes packs reads them as they are, so
they are filled to the budget; any other reads the windows as rows padded to the longest, so a batch has windows of like
length. A window that is carried on, or longer than the budget, is a batch alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scorer.windows import Window

_GPU_TOKENS = 65_536
_GPU_TOKENS_RECURRENT = 131_072  # launched from Python, layer by layer, a batch must outlast its launching
_CPU_TOKENS = (256, 4_096)
_CPU_WORK = 2 * 10**11  # parameters x tokens of a batch: about a second on two cores
_LEAST = 1_024  # tokens, below which no budget is halved
_PASSED = 1 << 22  # tokens that may pass an open pack by: its documents' blocks, and all after them, wait for it
_OPEN = 8  # packs that are filled at the same time: with them next to nothing is left empty
_SORTED = 1 << 20  # tokens that are gathered to be sorted by length


def token_budget(on_gpu: bool, parameters: int, recurrent: bool) -> int:
    """Positions of a batch, padding included, by a fixed rule. On a CPU few enough for a batch to take a second."""
    if on_gpu:
        return _GPU_TOKENS_RECURRENT if recurrent else _GPU_TOKENS
    low, high = _CPU_TOKENS
    return max(low, min(high, 1 << (_CPU_WORK // max(1, parameters)).bit_length() - 1))


def halved(budget: int) -> int | None:
    """The budget to try where one is too much for the memory; None when it is not the budget's fault any more."""
    return budget // 2 if budget // 2 >= _LEAST else None


def batches(windows: Iterable[Window], budget: int, packed: bool) -> Iterator[list[Window]]:
    """Batches of up to `budget` positions, each window in exactly one, those of a batch in the order they lie in."""
    return _packs(windows, budget) if packed else _rows(windows, budget)


def _alone(window: Window, budget: int) -> bool:
    return window.carried or window.more or window.length >= budget


@dataclass(eq=False)
class _Pack:
    """One that is being filled."""

    windows: list[Window]
    room: int  # positions that are left
    begun: int  # tokens that there were before it


def _packs(windows: Iterable[Window], budget: int) -> Iterator[list[Window]]:
    """Best fit into a few open packs; where a window fits into none, the fullest is done, and so is one left behind."""
    packs: list[_Pack] = []  # in the order in which they were begun
    tokens = 0

    def done(pack: _Pack) -> list[Window]:
        packs.remove(pack)
        return _longest_first(pack.windows)

    for window in windows:
        tokens += window.length
        if packs and tokens - packs[0].begun > _PASSED and not window.carried:
            yield done(packs[0])
        if _alone(window, budget):
            yield [window]
            continue
        fitting = [pack for pack in packs if pack.room >= window.length]
        if fitting:
            chosen = min(fitting, key=lambda pack: pack.room)
        else:
            if len(packs) == _OPEN:
                yield done(min(packs, key=lambda pack: pack.room))
            chosen = _Pack([], budget, tokens)
            packs.append(chosen)
        chosen.windows.append(window)
        chosen.room -= window.length
        if not chosen.room:
            yield done(chosen)
    yield from (_longest_first(pack.windows) for pack in packs)


def _rows(windows: Iterable[Window], budget: int) -> Iterator[list[Window]]:
    """Windows of like length, those of equal length in order; rows x longest stay in the budget."""
    gathered: list[Window] = []
    size = 0
    for window in windows:
        if _alone(window, budget):
            yield [window]
            continue
        gathered.append(window)
        size += window.length
        if size >= _SORTED:
            yield from _by_length(gathered, budget)
            gathered, size = [], 0
    yield from _by_length(gathered, budget)


def _by_length(windows: list[Window], budget: int) -> Iterator[list[Window]]:
    batch: list[Window] = []
    for window in _longest_first(windows):
        if batch and (len(batch) + 1) * batch[0].length > budget:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _longest_first(windows: list[Window]) -> list[Window]:
    """The long ones first, so that none is left for the end of a kernel; equal ones in order."""
    return sorted(windows, key=lambda window: -window.length)

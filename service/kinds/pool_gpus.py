"""The GPUs of a pool on one host: each is used by its workers, or lent to a training of another one. Locks on files.

Workers share the lock of their GPU while they have tasks for it; a training has those of the GPUs that it borrows. The
kernel gives locks back when a process is killed.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

_POLL_SECONDS = 0.1
_WAITING = "waiting"  # the lock of the training that waits for GPUs: workers take no further tasks meanwhile


class PoolGpus:
    """The GPUs as the workers of one of them see them. Names are those of CUDA_VISIBLE_DEVICES."""

    def __init__(self, folder: Path, own: str, others: Sequence[str]) -> None:
        """`folder` has the locks, and is the same for all workers of the pool on this host."""
        self.others = tuple(others)
        self._folder, self._own = folder, own
        self._held = ExitStack()
        self._holds = False

    def take(self) -> bool:
        """Holds the worker's own GPU until `give`. False, without it, while a training has it or waits for GPUs."""
        with ExitStack() as looking:
            free = self._lock(_WAITING, fcntl.LOCK_SH, looking)
        if not free:
            self.give()
        elif not self._holds:
            self._holds = self._lock(self._own, fcntl.LOCK_SH, self._held)
        return self._holds

    def give(self) -> None:
        """Gives the worker's own GPU back: others may take it."""
        self._held.close()
        self._holds = False

    @contextmanager
    def idle(self, most: int) -> Iterator[list[str]]:
        """Borrows up to `most` other GPUs whose workers have no tasks now, inside the block."""
        with ExitStack() as held:
            yield self._borrow(most, held)

    @contextmanager
    def exactly(self, count: int, beat: Callable[[], None]) -> Iterator[list[str]]:
        """Borrows `count` other GPUs inside the block, as soon as their workers' tasks are done.

        `beat` is called while it waits. Raises BlockingIOError while another training waits.
        """
        with ExitStack() as held:
            found: list[str] = []
            with ExitStack() as waiting:
                if len(found) < count and not self._lock(_WAITING, fcntl.LOCK_EX, waiting):
                    raise BlockingIOError("another training waits for GPUs")
                while len(found) < count:
                    found += self._borrow(count - len(found), held, found)
                    beat()
                    time.sleep(_POLL_SECONDS if len(found) < count else 0)
            yield found

    def _borrow(self, most: int, held: ExitStack, has: Sequence[str] = ()) -> list[str]:
        found: list[str] = []
        for name in self.others:
            if len(found) < most and name not in has and self._lock(name, fcntl.LOCK_EX, held):
                found.append(name)
        return found

    def _lock(self, name: str, mode: int, held: ExitStack) -> bool:
        """Locks a file until `held` ends, unless another process has it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            lock = opened.enter_context((self._folder / f"{name}.lock").open("wb"))
            try:
                fcntl.flock(lock, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            held.enter_context(opened.pop_all())
            return True

"""Which documents a run reads: a seeded sub-pool of its arm, in a seeded order that all arms of a seed share."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from pruner.ablation.compare import AGAIN, ALL, Arm
from pruner.corpus.row_hash import row_hash
from pruner.errors import InputError
from pruner.tables.storage import Storage
from pruner.tables.stored_table import table_batches

BYTES_PER_TOKEN = 4.0  # where no reference has counted tokens
SPARE = 1.6  # text is planned for a tokenizer that is not learnt yet: it may need so many bytes a token more
_FEWEST = 20  # documents of a sub-pool
_ROW_BITS = 40
_ORDER, _DRAW, _AGAIN = range(3)  # what a hash is for
_SEEDS = 3 << 62  # added to seeds, which are smaller, so that train splits and random selections draw by other hashes


@dataclass(frozen=True)
class Pool:
    """Documents in plan order: int64 [documents] each. `file` is an index into the plan's files."""

    file: np.ndarray
    row: np.ndarray
    n_bytes: np.ndarray
    tokens: int | None  # by the reference

    def __len__(self) -> int:
        return len(self.row)

    @property
    def bytes_per_token(self) -> float:
        """By the reference's tokenizer."""
        return float(self.n_bytes.sum()) / self.tokens if self.tokens else BYTES_PER_TOKEN

    def has(self, other: "Pool") -> np.ndarray:
        """Which documents are in another pool, bool [documents]. Raises InputError for one that is no part of this."""
        keys, wanted = self._keys(), other._keys()
        places = np.searchsorted(keys, wanted)
        if len(wanted) and (len(keys) == 0 or (keys[np.minimum(places, len(keys) - 1)] != wanted).any()):
            raise InputError("a selection keeps a document that has no score; make the selection again")
        found = np.zeros(len(self), bool)
        found[places] = True
        return found

    def hashes(self, seed: int, use: int) -> np.ndarray:
        """A hash of each document for a use, uint64 [documents]."""
        return np.asarray(row_hash(_SEEDS + 3 * seed + use, self.file, self.row))

    def _keys(self) -> np.ndarray:
        return row_keys(self.file, self.row)


def row_keys(file: int | np.ndarray, row: int | np.ndarray) -> np.ndarray:
    """Numbers that order rows by file, then row: int64 [R], or one of one row. Files have fewer than 2^40 rows."""
    return np.asarray(np.asarray(file, np.int64) << _ROW_BITS | row)


def read_pool(storage: Storage, manifest: str, files: Mapping[str, int], beat: Callable[[], None]) -> Pool:
    """The documents of a manifest, a file or a folder of parts. `files` are indices of the plan's files by URL."""
    numbers: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    tokens = 0
    for batch in table_batches(storage, manifest, ["file", "row", "n_bytes", "n_tokens"], dictionary=["file"]):
        names = batch["file"].dictionary.to_pylist()
        index = np.array([files[name] for name in names], np.int64)
        numbers.append(index[batch["file"].indices.to_numpy()])
        rows.append(batch["row"].to_numpy())
        sizes.append(batch["n_bytes"].to_numpy())
        tokens += pc.sum(batch["n_tokens"]).as_py() or 0
        beat()
    file, row, n_bytes = (np.concatenate([np.zeros(0, np.int64), *part]) for part in (numbers, rows, sizes))
    return Pool(file, row, n_bytes, tokens or None)


@dataclass(frozen=True)
class Budget:
    """How much a run reads. `share` of the text of all documents is the sub-pool."""

    tokens: int
    share: float


class Reading(NamedTuple):
    """What a run reads: indices of documents of the pool, int64, in the order of reading; and its sub-pool in bytes."""

    documents: np.ndarray
    pool_bytes: int


class Readings:
    """What each run reads."""

    def __init__(self, pool: Pool, arms: Sequence[Arm], kept: Mapping[str, np.ndarray], budget: Budget) -> None:
        """`kept` [documents] bool by selection."""
        self._pool, self._kept, self._budget = pool, kept, budget
        self._arms = {arm.name: arm for arm in arms}
        self._wanted = budget.tokens * pool.bytes_per_token * SPARE  # bytes
        self._cuts: dict[tuple[int, int], np.uint64] = {}

    def of(self, name: str, seed: int) -> Reading:
        """What a run reads, at most its sub-pool. Raises InputError for a sub-pool of too few documents.

        The hash orders the documents and cuts the sub-pool, so that the arms of a seed have the documents that they
        share in the same order. A random arm draws its documents anew for each seed.
        """
        arm = self._arms[name]
        use = _AGAIN if arm.role == "again" else _ORDER
        hashes = self._pool.hashes(seed, use)
        if (seed, use) not in self._cuts:
            self._cuts[seed, use] = self._cut(hashes)
        inside = hashes <= self._cuts[seed, use]
        if arm.role == "random":
            drawn = np.zeros(len(self._pool), bool)
            drawn[np.argsort(self._pool.hashes(seed, _DRAW), kind="stable")[: arm.documents]] = True
            inside &= drawn
        elif arm.role == "selection":
            inside &= self._kept[name]
        found = np.flatnonzero(inside)
        if len(found) < _FEWEST:
            raise InputError(
                f"the sub-pool of {name} has {len(found):,} documents, too few to train on: raise --tokens, lower "
                "--target-tokens or --repetitions, or take a larger corpus"
            )
        found = found[np.argsort(hashes[found], kind="stable")]
        size = np.cumsum(self._pool.n_bytes[found])
        return Reading(found[: int(np.searchsorted(size, self._wanted)) + 1], int(size[-1]))

    def _cut(self, hashes: np.ndarray) -> np.uint64:
        """The largest hash of the sub-pool of all documents: those up to it have its share of the bytes, about."""
        share, n_bytes = self._budget.share, self._pool.n_bytes
        if share >= 1:
            return np.uint64(2**64 - 1)
        wanted = share * float(n_bytes.sum())
        for part in (4 * share, 1.0):  # most of the time a part of the documents is enough, which is sorted sooner
            few = np.flatnonzero(hashes <= np.uint64(min(1.0, part) * (2**64 - 2**11)))
            order = few[np.argsort(hashes[few], kind="stable")]
            size = np.cumsum(n_bytes[order])
            if len(size) and size[-1] >= wanted:
                break
        return np.uint64(hashes[order[np.abs(size - wanted).argmin()]]) if len(size) else np.uint64(0)


def check_kept(kept: Mapping[str, np.ndarray]) -> None:
    """Raises InputError for selections that keep all documents, the same as another, or too few.

    `kept` [documents] bool by selection. Runs that are copies of others would count as runs without noise.
    """
    seen: dict[bytes, str] = {}
    for name, mask in kept.items():
        if (count := int(mask.sum())) < _FEWEST:
            few = f"{count} document{'s' if count != 1 else ''}"
            raise InputError(f"the selection {name} keeps {few}, too few to train on: it needs {_FEWEST} or more")
        if mask.all():
            raise InputError(f"the selection {name} keeps all documents, as the arm `{ALL}` does: leave it out")
        other = seen.setdefault(np.packbits(mask).tobytes(), name)
        if other != name:
            raise InputError(f"the selections {other} and {name} keep the same documents: leave one out")


def make_arms(pool: Pool, selections: Mapping[str, tuple[float, int]]) -> list[Arm]:
    """`all`, the selections, and a random arm for each of their rates and numbers of documents.

    `selections` are (rate, documents) by id. A selection that has the name of its own random arm is that arm.
    """
    random: dict[str, Arm] = {}
    chosen = []
    for name, (rate, documents) in selections.items():
        control = f"random-{repr(rate).removesuffix('.0')}"
        if control in random and random[control].documents != documents:
            control = f"{control}-{documents}"
        share = documents / max(1, len(pool))
        random.setdefault(control, Arm(control, "random", documents, share))
        if name != control:
            chosen.append(Arm(name, "selection", documents, share, control))
    return [Arm(ALL, "all", len(pool), 1.0), *random.values(), *chosen]


def is_other_arm(name: str) -> bool:
    """Whether a name may be that of an arm which is no selection: of a random one, as made above, or `all` again."""
    return name == AGAIN or re.fullmatch(r"random-[0-9.e-]+", name) is not None

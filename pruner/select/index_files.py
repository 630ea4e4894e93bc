"""The files of an index: arrays, of which only what is asked for is read, and a record beside them."""

import io
from collections.abc import Callable
from typing import cast

import numpy as np

from pruner.select import key_limits
from pruner.select.index import Index
from pruner.select.key_limits import block_limits
from pruner.select.sampled_sums import sample
from pruner.select.stored_array import StoredArray, map_array, read_at_random
from pruner.tables.records import Record, read_record, write_record
from pruner.tables.storage import Storage

FOLDER = "ranks"
PERCENTILE = "percentile"  # an array beside those of an order by stages, float64 [rows of the table of scores]
_WRITE_BYTES = 64 << 20  # of an array, written at a time
_WHOLE_BYTES = 2 << 20  # of an array in a remote storage, up to which it is read at once


def read_shard_rows(storage: Storage, folder: str) -> np.ndarray:
    """The rows of the table of scores before each shard, int64 [shards + 1]. Raises FileNotFoundError."""
    data = io.BytesIO(storage.read_bytes(f"{folder}/{FOLDER}/shards.npy"))
    return np.asarray(np.load(data, allow_pickle=False))


def read_kept(storage: Storage, folder: str) -> int:
    """The number of documents that stages leave, of an index in such an order. Raises as `read_domain_names` does."""
    return read_record(storage, f"{folder}/{FOLDER}/ranks.json", _IndexRecord).kept or 0


def read_domain_names(storage: Storage, folder: str) -> list[str | None]:
    """The domains of an index, by their codes. Raises FileNotFoundError, and InputError for another format version."""
    return read_record(storage, f"{folder}/{FOLDER}/ranks.json", _IndexRecord).domains


class _IndexRecord(Record):
    """What an index holds beside its arrays."""

    step: int
    domains: list[str | None]
    kept: int | None = None  # as of Index
    columns: int | None = None  # of the marks; None in an index of an earlier version, which has one for each domain


_ARRAYS = (
    "below",
    "key",
    "domain",
    "place",
    "marks",
    "inside_below",
    "inside_key",
    "inside_place",
    "inside_bounds",
    "shards",
)
_SMALL = {"inside_bounds", "shards", "limits", "inside_limits", "inside_samples"}
_BLOCKS = {  # arrays, those that they tell of by blocks, and what makes and how
    "limits": ("key", block_limits),
    "inside_limits": ("inside_key", block_limits),
    "inside_samples": ("inside_below", sample),
}
_RANKS = {"rank": "place", "inside_rank": "inside_place"}  # arrays by row, and those by rank that they invert


def write_arrays(storage: Storage, folder: str, index: Index, beat: Callable[[], None]) -> None:
    """Writes an index that was just built into `folder`/ranks: a .npy file for each array, then ranks.json."""
    for name in (*_ARRAYS, *_BLOCKS, *_RANKS):
        write_array(storage, folder, name, getattr(index, name), beat)
    record = _IndexRecord(step=index.step, domains=index.domain_names, kept=index.kept, columns=index.columns)
    write_record(storage, f"{folder}/{FOLDER}/ranks.json", record)


def write_array(storage: Storage, folder: str, name: str, array: np.ndarray, beat: Callable[[], None]) -> None:
    """Writes an array beside those of the index in `folder`."""
    array = np.ascontiguousarray(array)
    with storage.create(array_path(folder, name)) as file:
        # Not np.save: its own file access does not tell a full disk from other errors.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        data = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), _WRITE_BYTES):
            file.write(data[start : start + _WRITE_BYTES])
            beat()


def read_index(storage: Storage, folder: str) -> Index:
    """Reads the index in `folder`. Raises FileNotFoundError, and InputError if it has another format version.

    The arrays, of up to 53 bytes a document, stay where they are: what is asked for is read.
    """
    record = read_record(storage, f"{folder}/{FOLDER}/ranks.json", _IndexRecord)
    arrays = {name: read_array(storage, folder, name) for name in _ARRAYS}
    for name, (of, make) in _BLOCKS.items():
        # An index of an earlier version has none, or those of larger blocks.
        known = storage.exists(array_path(folder, name))
        found = read_array(storage, folder, name) if known else None
        same = found is not None and len(found) == key_limits.block_count(len(arrays[of]))
        arrays[name] = found if found is not None and same else make(arrays[of])
    for name in arrays.keys() - _SMALL:
        read_at_random(arrays[name])
    domains, marks = record.domains, arrays["marks"]
    if isinstance(marks, np.ndarray) and marks.ndim > 1:  # of an earlier version
        arrays["marks"] = marks.reshape(-1)
    columns = len(domains) if record.columns is None else record.columns
    return Index(**arrays, step=record.step, columns=columns, domain_names=domains, kept=record.kept)


def read_array(storage: Storage, folder: str, name: str) -> np.ndarray:
    """An array of the index in `folder`, as those of `read_index`. Raises FileNotFoundError."""
    path = array_path(folder, name)
    local = storage.local(path)
    if local is not None:
        return map_array(local)
    if name in _SMALL or storage.size(path) <= _WHOLE_BYTES:
        return np.asarray(np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False))
    return cast(np.ndarray, StoredArray(storage, path))  # as much of an array as is used of one


def row_ranks(storage: Storage, folder: str, *, inside: bool) -> Callable[[int, int], np.ndarray]:
    """A function of the ranks of rows [start, stop) of the table of scores, int64, -1 for rows without one.

    With `inside` they are positions in the arrays `inside_*`. Only what is asked for is read. Raises FileNotFoundError.
    """
    name = "inside_rank" if inside else "rank"
    try:
        return StoredArray(storage, array_path(folder, name)).read
    except FileNotFoundError:  # an index of an earlier version has none
        places = read_array(storage, folder, _RANKS[name])
    ranks = np.full(int(read_array(storage, folder, "shards")[-1]), -1, dtype=np.int64)
    ranks[np.asarray(places)] = np.arange(len(places))
    return lambda start, stop: ranks[start:stop]


def array_path(folder: str, name: str) -> str:
    """The file of an array of the index in `folder`."""
    return f"{folder}/{FOLDER}/{name}.npy"

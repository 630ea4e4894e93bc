"""Arrays in .npy files of a storage, of which slices are read."""

from typing import BinaryIO

import numpy as np

from pruner.tables.storage import Storage


class StoredArray:
    """A one-dimensional array in a .npy file; only what is asked for is read."""

    def __init__(self, storage: Storage, path: str) -> None:
        """Raises FileNotFoundError."""
        self._storage, self._path = storage, path
        with storage.open(path) as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"{path}: is a .npy file of version {version}")
            shape, _, self._dtype = np.lib.format.read_array_header_1_0(file)
            self._size, self._data = shape[0], file.tell()

    def __len__(self) -> int:
        return int(self._size)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The values [start, stop), fewer at the end of the array. Raises FileNotFoundError."""
        stop = min(stop, self._size)
        with self._storage.open(self._path) as file:
            file.seek(self._data + start * self._dtype.itemsize)
            return np.frombuffer(_exactly(file, (stop - start) * self._dtype.itemsize), self._dtype)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"a .npy file ended {size - len(data)} bytes early")
    return data

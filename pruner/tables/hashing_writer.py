"""A file writer that computes the SHA-256 and the size of what is written."""

import hashlib
import io
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

_READ_BYTES = 1 << 20


class WrittenFile(BaseModel):
    """Identifies the content of a file."""

    sha256: str  # 64 hex digits
    size: int  # bytes


def hashed(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


class HashingWriter(io.RawIOBase):
    """Passes bytes on to `file` and hashes them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._size = 0

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: Any) -> int:
        """Writes all of `data`, a bytes-like object."""
        view = memoryview(data)
        self._file.write(view)
        self._sha256.update(view)
        self._size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """The number of bytes written."""
        return self._size

    @property
    def written(self) -> WrittenFile:
        """Hash and size of what was written so far."""
        return WrittenFile(sha256=self._sha256.hexdigest(), size=self._size)

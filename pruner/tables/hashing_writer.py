"""A file that is hashed while it is written."""

import hashlib
import io
from typing import Any, BinaryIO


class HashingWriter(io.RawIOBase):
    """Passes bytes on to `file` and knows their SHA-256 and their number."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._size = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Writes all of `data`."""
        view = memoryview(data)
        self._file.write(view)
        self._sha256.update(view)
        self._size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size

    @property
    def about(self) -> dict[str, Any]:
        """`sha256` (64 hex digits) and `size` (bytes) of what was written."""
        return {"sha256": self._sha256.hexdigest(), "size": self._size}

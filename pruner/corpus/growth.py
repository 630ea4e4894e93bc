"""The limit on how much larger than its file the decoded text may be: larger files are decompression bombs."""

from pruner.errors import InputError

ROWS_FREE = 1_000_000  # rows that a file of any size may have; more than these need at least a byte each

_FACTOR_MAX = 1000  # decoded bytes for each byte of the file
_BYTES_FREE = 64 << 20  # decoded bytes that a file of any size may have


class GrowthLimit:
    """Counts the decoded bytes and rows of a file. Raises InputError when they exceed what its size allows."""

    def __init__(self, url: str, size: int) -> None:
        """`size` is that of the file, in bytes."""
        self._url, self._size = url, size
        self._bytes_left = max(_BYTES_FREE, _FACTOR_MAX * size)
        self._rows_left = max(ROWS_FREE, size)

    def add_rows(self, rows: int) -> None:
        """Counts decoded rows."""
        self._rows_left -= rows
        if self._rows_left < 0:
            raise InputError(f"{self._url}: its {self._size:,} bytes become more rows than bytes; leave the file out")

    def add_bytes(self, size: int) -> None:
        """Counts decoded bytes."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise InputError(
                f"{self._url}: its {self._size:,} bytes become more than {_FACTOR_MAX:,} times as many;"
                " leave the file out"
            )

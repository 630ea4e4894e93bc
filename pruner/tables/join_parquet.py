"""Joins Parquet files of one schema into one file: their pages are copied as they are, their footers become one."""

from collections.abc import Callable
from typing import BinaryIO

from pruner.tables.hashing_writer import HashingWriter
from pruner.tables.thrift import ThriftList, ThriftStruct, decode, encode

_MAGIC = b"PAR1"
_COPY_BYTES = 1 << 20
_STRUCT = 12
# Numbers of the fields in parquet.thrift.
_SCHEMA, _ROWS, _GROUPS = 2, 3, 4
_COLUMNS, _GROUP_ROWS, _GROUP_OFFSET, _ORDINAL = 1, 3, 5, 7
_CHUNK_METADATA, _CHUNK_OFFSETS = 3, (2, 4, 6)
_PAGE_OFFSETS = (9, 10, 11, 14)  # of data, index and dictionary pages, and of the Bloom filter


class ParquetJoiner:
    """Writes row groups of several files, in the order in which they are added, as one file.

    All files have the same schema and metadata, and are not encrypted.
    """

    def __init__(self, out: HashingWriter) -> None:
        self._out = out
        self._footer: ThriftStruct | None = None
        self._groups: list[ThriftStruct] = []
        out.write(_MAGIC)

    def add(self, source: BinaryIO, beat: Callable[[], None] = lambda: None) -> int:
        """Adds the row groups of a file; returns the number of its rows. Raises ValueError if it has another schema."""
        size = source.seek(0, 2)
        source.seek(size - 8)
        length = int.from_bytes(source.read(4), "little")
        source.seek(size - 8 - length)
        footer = decode(source.read(length))
        if self._footer is not None and footer.get(_SCHEMA) != self._footer.get(_SCHEMA):
            raise ValueError("the files have different schemas")
        self._footer = self._footer or footer
        moved = self._out.tell() - len(_MAGIC)
        # Some readers cannot read row groups without rows.
        groups = [group for group in footer.get(_GROUPS).items if group.get(_GROUP_ROWS)]
        for group in groups:
            _move(group, moved)
            self._groups.append(group)
        source.seek(len(_MAGIC))
        left = size - 8 - length - len(_MAGIC) if groups else 0
        while left and (piece := source.read(min(left, _COPY_BYTES))):
            self._out.write(piece)
            left -= len(piece)
            beat()
        return int(footer.get(_ROWS))

    def close(self) -> None:
        """Writes the footer. At least one file was added."""
        if self._footer is None:
            raise ValueError("no file was added")
        self._footer.set(_GROUPS, ThriftList(_STRUCT, self._groups))
        self._footer.set(_ROWS, sum(group.get(_GROUP_ROWS) for group in self._groups))
        data = encode(self._footer)
        self._out.write(data + len(data).to_bytes(4, "little") + _MAGIC)


def _move(group: ThriftStruct, by: int) -> None:
    """Moves the offsets of a row group."""
    for chunk in group.get(_COLUMNS).items:
        for offset in _CHUNK_OFFSETS:
            _add(chunk, offset, by)
        for offset in _PAGE_OFFSETS:
            _add(chunk.get(_CHUNK_METADATA), offset, by)
    _add(group, _GROUP_OFFSET, by)
    group.fields.pop(_ORDINAL, None)  # its number in the file, which is optional and has 16 bits


def _add(fields: ThriftStruct, number: int, by: int) -> None:
    # An offset of 0 says that there is none: a file begins with its magic number.
    if fields.get(number):
        fields.set(number, fields.get(number) + by)

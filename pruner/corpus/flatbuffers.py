"""Reads fields of FlatBuffers tables, of which Arrow's message headers are made. See Arrow's Message.fbs."""

import struct

# Numbers of fields: of Message, of DictionaryBatch, of RecordBatch, and of BodyCompression.
MESSAGE_HEADER, MESSAGE_BODY_LENGTH, DICTIONARY_DATA, RECORD_BATCH_LENGTH, RECORD_BATCH_COMPRESSION = 2, 3, 1, 0, 3
BODY_COMPRESSION_CODEC = 0


def field(data: memoryview, table: int, number: int) -> int:
    """The position of a field of a table, 0 if it is absent. Raises struct.error where the data ends before it."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, vtable)
    place = 4 + 2 * number
    offset = struct.unpack_from("<H", data, vtable + place)[0] if place < size else 0
    return table + offset if offset else 0


def follow(data: memoryview, position: int) -> int:
    """The position that an offset at `position` refers to."""
    return int(position + struct.unpack_from("<I", data, position)[0])


def int64(data: memoryview, table: int, number: int) -> int:
    """A field that is an int64; 0 if it is absent."""
    place = field(data, table, number)
    return int(struct.unpack_from("<q", data, place)[0]) if place else 0

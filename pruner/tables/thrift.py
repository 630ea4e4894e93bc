"""Thrift's compact protocol: structs of Parquet footers as lists of fields, which may be changed and encoded again."""

from dataclasses import dataclass, field
from typing import Any

_TRUE, _FALSE, _BYTE, _I16, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 4, 6, 7, 8, 9, 10, 12


@dataclass
class ThriftList:
    """A list or set: the type of its elements, and these."""

    of: int
    items: list[Any]


@dataclass
class ThriftStruct:
    """A struct: type and value of each field by its number, in the order of the numbers."""

    fields: dict[int, tuple[int, Any]] = field(default_factory=dict)

    def get(self, number: int) -> Any:
        """The value of a field, or None if it has none."""
        return self.fields.get(number, (0, None))[1]

    def set(self, number: int, value: Any) -> None:
        """Changes the value of a field that has one."""
        self.fields[number] = self.fields[number][0], value


def decode(data: bytes) -> ThriftStruct:
    """Decodes a struct. Raises ValueError or IndexError for other bytes."""
    return _Decoder(data).struct()


def encode(value: ThriftStruct) -> bytes:
    """Encodes a struct."""
    out = bytearray()
    _write(out, _STRUCT, value)
    return bytes(out)


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self) -> ThriftStruct:
        found, number = ThriftStruct(), 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            found.fields[number] = head & 15, self._value(head & 15)
        return found

    def _value(self, kind: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return None  # the type of the field is its value
        if kind == _BYTE:
            return self._byte()
        if _I16 <= kind <= _I64:
            return self._signed()
        if kind == _DOUBLE:
            return self._take(8)
        if kind == _BINARY:
            return self._take(self._unsigned())
        if kind in (_LIST, _SET):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._unsigned()
            inner = _BYTE if head & 15 in (_TRUE, _FALSE) else head & 15
            return ThriftList(head & 15, [self._value(inner) for _ in range(size)])
        if kind == _STRUCT:
            return self.struct()
        raise ValueError(f"a field of the unknown type {kind}")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def _unsigned(self) -> int:
        value, shift = 0, 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _signed(self) -> int:
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)


def _write(out: bytearray, kind: int, value: Any) -> None:
    if kind == _BYTE:
        out.append(value)
    elif _I16 <= kind <= _I64:
        _unsigned(out, value << 1 if value >= 0 else ~(value << 1))
    elif kind == _DOUBLE:
        out += value
    elif kind == _BINARY:
        _unsigned(out, len(value))
        out += value
    elif kind in (_LIST, _SET):
        size = len(value.items)
        out.append(min(size, 15) << 4 | value.of)
        if size >= 15:
            _unsigned(out, size)
        inner = _BYTE if value.of in (_TRUE, _FALSE) else value.of
        for item in value.items:
            _write(out, inner, item)
    elif kind == _STRUCT:
        before = 0
        for number, (of, inside) in value.fields.items():
            if 0 < number - before < 16:
                out.append(number - before << 4 | of)
            else:
                out.append(of)
                _unsigned(out, number << 1)
            _write(out, of, inside)
            before = number
        out.append(0)


def _unsigned(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)

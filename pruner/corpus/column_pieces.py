"""Makes pieces of record batches of Arrow columns: those of Parquet and Arrow files.

Valid text stays in Arrow; only unusual values become Python objects.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pruner.corpus.arrow_fields import ArrowField, find_field, is_string_like, plain_bytes
from pruner.corpus.batches import DOCUMENT_BYTES_MAX, EMPTY, NOT_TEXT, TOO_LONG, UNREADABLE, make_piece
from pruner.corpus.fields import ABSENT, is_url, path_value
from pruner.corpus.files import CorpusFile
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.labels import LABEL_CHARACTERS_MAX, PLAIN_HOST, host, json_text, label, valid_unicode
from pruner.spec import CorpusSpec

_PIECE_ROWS = 512  # rows that are processed together
_PIECE_BYTES = 1 << 20  # the same in bytes, at which a piece ends
_DICTIONARY_BYTES = 32 << 20  # of dictionary values that are copied to their rows at a time

_Rejects = dict[int, str]  # by row of a piece


def column_pieces(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    file: CorpusFile,
    spec: CorpusSpec,
    columns: tuple[str, ...] | None,
    growth: GrowthLimit,
) -> Iterator[pa.RecordBatch]:
    """The rows of decoded batches. `source` holds the fields `columns`; with None, all columns of the batches."""
    found = {field: find_field(schema, field) for field in named_fields(spec)}
    top = {where.column for where in found.values() if where is not None}
    for batch in _gathered(batches, top, growth):
        for piece in _split_dictionaries(batch, top):
            yield _Piece(piece, found, file, spec).batch(columns)


def named_fields(spec: CorpusSpec) -> list[str]:
    """The fields that a corpus names, each once."""
    fields = (spec.text_field, spec.id_field, spec.domain_field)
    return list(dict.fromkeys(field for field in fields if field is not None))


def _gathered(batches: Iterable[pa.RecordBatch], top: set[str], growth: GrowthLimit) -> Iterator[pa.RecordBatch]:
    """The same rows in batches that are worth the overhead of Arrow's functions."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        decoded = batch.nbytes + _dictionary_bytes(batch, top)
        growth.add_bytes(decoded)
        growth.add_rows(len(batch))
        held.append(batch)
        rows, size = rows + len(batch), size + decoded
        if rows >= _PIECE_ROWS or size >= _PIECE_BYTES:
            yield pa.concat_batches(held) if len(held) > 1 else batch
            held, rows, size = [], 0, 0
    if held:
        yield pa.concat_batches(held)


def _split_dictionaries(batch: pa.RecordBatch, top: set[str]) -> Iterator[pa.RecordBatch]:
    """The batch in pieces whose dictionary-encoded columns stay small when they are decoded."""
    if len(batch) > 1 and _dictionary_bytes(batch, top) > _DICTIONARY_BYTES:
        half = len(batch) // 2
        yield from _split_dictionaries(batch.slice(0, half), top)
        yield from _split_dictionaries(batch.slice(half), top)
    else:
        yield batch


def _dictionary_bytes(batch: pa.RecordBatch, top: set[str]) -> int:
    """The size of the dictionary-encoded columns when they are decoded."""
    size = 0
    for name in top:
        column = batch[name]
        if pa.types.is_dictionary(column.type) and is_string_like(column.type.value_type):
            lengths = pc.binary_length(plain_bytes(column.dictionary)).take(column.indices)
            size += pc.sum(lengths).as_py() or 0
    return size


class _Piece:
    """The rows of one batch on their way to text, labels and rejects."""

    def __init__(
        self, batch: pa.RecordBatch, found: dict[str, ArrowField | None], file: CorpusFile, spec: CorpusSpec
    ) -> None:
        self._rows, self._batch, self._found, self._file, self._spec = len(batch), batch, found, file, spec
        self._fields = {name: self._values(name, where) for name, where in found.items()}
        self._rejects: _Rejects = {}
        for column in self._fields.values():
            if pa.types.is_large_binary(column.type):
                self._rejects |= dict.fromkeys(_longer(column, DOCUMENT_BYTES_MAX), TOO_LONG)
        if self._rejects:
            self._fields = {name: _without(column, self._rejects) for name, column in self._fields.items()}

    def batch(self, columns: tuple[str, ...] | None) -> pa.RecordBatch:
        """The rows as a piece."""
        labels = [self._label(self._spec.id_field, "id"), self._label(self._spec.domain_field, "domain")]
        if self._rejects:
            labels = [_without(column, self._rejects) for column in labels]
        text, errors = _text(self._fields[self._spec.text_field])
        rejects = errors | self._rejects
        reject = pa.nulls(self._rows, pa.string())
        if rejects:
            text = _without(text, rejects)
            reject = pa.array([rejects.get(row) for row in range(self._rows)], pa.string())
        return make_piece(text, labels[0], labels[1], reject, self._source(columns))

    def _values(self, name: str, where: ArrowField | None) -> Any:
        """The values of a field: strings and bytes as large_binary. Of a field of the path the same in each row."""
        if where is not None and not where.is_json:
            return plain_bytes(where.values(self._batch))
        of_path = path_value(self._file, name)
        other = None if of_path is ABSENT or name == self._spec.text_field else of_path
        if where is None:
            return pa.array([None if other is None else other.encode()] * self._rows, pa.large_binary())
        values = [_json_label(value, other) for value in where.json_values(self._batch)]
        return pa.array(values, pa.large_binary())

    def _label(self, name: str | None, about: str) -> Any:
        if name is None:
            return pa.nulls(self._rows, pa.string())
        column = self._fields[name]
        labels, errors = _hosts(column) if about == "domain" and is_url(name) else _labels(column)
        for row, error in errors.items():
            self._rejects.setdefault(row, f"{UNREADABLE}: its {about} is {error}")
        return labels

    def _source(self, columns: tuple[str, ...] | None) -> Any:
        if columns == ():
            return None
        if columns is None:
            return pa.StructArray.from_arrays(self._batch.columns, fields=list(self._batch.schema))
        return pa.StructArray.from_arrays([self._column(name) for name in columns], list(columns))

    def _column(self, name: str) -> Any:
        where = find_field(self._batch.schema, name)
        if where is None:
            return pa.nulls(self._rows)
        if where.is_json:
            return pa.array([_json_label(value, None) for value in where.json_values(self._batch)], pa.large_string())
        return where.values(self._batch) if where.names or where.key else self._batch[name]


def _json_label(value: Any, other: str | None) -> bytes | None:
    """A value in a JSON text as bytes of text; `other` where there is none."""
    if value is ABSENT:
        value = other
    if value is None:
        return None
    text = json_text(value) if isinstance(value, (dict, list)) else str(value)
    return valid_unicode(text).encode()


def _text(column: Any) -> tuple[Any, _Rejects]:
    """Text as large_string, and the reasons of the rows without text."""
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.large_string()), dict.fromkeys(range(len(column)), f"{NOT_TEXT}: null")
    rejects: _Rejects = dict.fromkeys(_where(_byte_lengths(column) == 0), EMPTY)
    if column.null_count:
        rejects |= dict.fromkeys(_where(_is_null(column)), f"{NOT_TEXT}: null")
    try:
        return column.cast(pa.large_string()), rejects
    except pa.ArrowInvalid:  # some row is not UTF-8
        bad = [row for row, value in enumerate(column) if value.is_valid and not _is_utf8(value)]
        rejects |= dict.fromkeys(bad, f"{UNREADABLE}: invalid UTF-8")
        return _without(column, rejects).cast(pa.large_string()), rejects


def _is_utf8(value: Any) -> bool:
    try:
        value.as_py().decode()
    except UnicodeDecodeError:
        return False
    return True


def _labels(column: Any) -> tuple[Any, _Rejects]:
    """Ids or domains as string, and what is wrong with the labels of some rows."""
    if pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string()), {}
    if is_string_like(column.type):
        try:
            text = column.cast(pa.large_string())
        except pa.ArrowInvalid:
            return _python_labels(column)
        errors = dict.fromkeys(_too_long(text), f"longer than {LABEL_CHARACTERS_MAX:,} characters")
        return _without(text, errors).cast(pa.string()), errors
    return _python_labels(column)


def _python_labels(column: Any) -> tuple[Any, _Rejects]:
    labels: list[str | None] = []
    errors: _Rejects = {}
    for row, value in enumerate(_python_values(column)):
        try:
            labels.append(label(value))
        except ValueError as error:
            labels.append(None)
            errors[row] = str(error)
    return pa.array(labels, pa.string()), errors


def _hosts(column: Any) -> tuple[Any, _Rejects]:
    """The hosts of URLs as string; null for everything else."""
    if not is_string_like(column.type):
        return pa.array([host(value) for value in _python_values(column)], pa.string()), {}
    try:
        urls = column.cast(pa.large_string())
    except pa.ArrowInvalid:
        return pa.array([host(value) for value in column.to_pylist()], pa.string()), {}
    urls = _without(urls, _too_long(urls))
    hosts = pc.ascii_lower(pc.struct_field(pc.extract_regex(urls, PLAIN_HOST), "host"))
    if hosts.null_count == urls.null_count:
        return hosts.cast(pa.string()), {}
    found = hosts.to_pylist()
    for row in _where(_is_null(hosts) & ~_is_null(urls)):
        found[row] = host(urls[row].as_py())
    return pa.array(found, pa.string()), {}


def _byte_lengths(column: Any) -> np.ndarray:
    """The length of each value of a large_binary or large_string array, int64 [rows]; 0 for nulls."""
    if not len(column):
        return np.zeros(0, np.int64)
    lengths = np.diff(_ends(column))
    if column.null_count:
        lengths[_is_null(column)] = 0
    return lengths


def _ends(column: Any) -> np.ndarray:
    """Where the values of a large_binary or large_string array that is not empty start, and the last one ends."""
    return np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]


def _longer(column: Any, size: int) -> list[int]:
    """The rows of a large_binary or large_string array with more than `size` bytes; none if all have no more."""
    if not len(column) or _ends(column)[-1] - _ends(column)[0] <= size:
        return []
    return _where(_byte_lengths(column) > size)


def _too_long(text: Any) -> list[int]:
    """The rows of a large_string array that are too long for a label."""
    if not _longer(text, LABEL_CHARACTERS_MAX):
        return []
    characters = pc.fill_null(pc.utf8_length(text), 0).to_numpy(zero_copy_only=False)
    return _where(characters > LABEL_CHARACTERS_MAX)


def _is_null(column: Any) -> np.ndarray:
    return np.asarray(column.is_null().to_numpy(zero_copy_only=False))


def _where(mask: np.ndarray) -> list[int]:
    """The rows where a mask is true."""
    return np.flatnonzero(mask).tolist()


def _without(column: Any, rows: Any) -> Any:
    """The column with nulls at the given rows."""
    if not rows:
        return column
    mask = np.zeros(len(column), dtype=bool)
    mask[list(rows)] = True
    if pa.types.is_nested(column.type):  # which if_else cannot choose from
        return pa.array(
            [None if bad else value for bad, value in zip(mask, column.to_pylist(), strict=True)], column.type
        )
    return pc.if_else(pa.array(mask), pa.scalar(None, column.type), column)


def _python_values(column: Any) -> list[Any]:
    if not pa.types.is_temporal(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    try:
        return _microseconds(column).to_pylist()  # type: ignore[no-any-return]
    except (OverflowError, ValueError, KeyError):
        # datetime cannot hold these times: out of range, nanoseconds, or an unknown zone (a KeyError).
        if pa.types.is_timestamp(column.type) and column.type.tz is not None:
            column = column.cast(pa.timestamp(column.type.unit, "UTC"))
        return column.cast(pa.string()).to_pylist()  # type: ignore[no-any-return]


def _microseconds(column: Any) -> Any:
    """Times in microseconds or coarser units, as Arrow makes other objects of nanoseconds where pandas is installed.

    Raises ArrowInvalid, a ValueError, if a value would lose nanoseconds.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return column.cast(pa.timestamp("us", kind.tz))
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return column.cast(pa.time64("us"))
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return column.cast(pa.duration("us"))
    return column

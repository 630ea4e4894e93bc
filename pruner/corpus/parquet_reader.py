"""Reads the rows of a Parquet shard as record batches. Valid text stays in Arrow; only unusual values become Python."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pruner.corpus.batches import DOCUMENT_BYTES_MAX, EMPTY, NOT_TEXT, TOO_LONG, UNREADABLE, make_batch
from pruner.corpus.files import CorpusFile
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.labels import LABEL_CHARACTERS_MAX, PLAIN_HOST, host, label
from pruner.corpus.parquet_footer import is_string_like
from pruner.corpus.plan import Shard
from pruner.errors import InputError, reason
from pruner.spec import CorpusSpec

_READ_BYTES = 1 << 20  # read from a file at a time
_DECODE_BYTES = 8 << 20  # decoded at a time, by the sizes in the footer
_PIECE_ROWS = 512  # decoded rows that are processed together
_PIECE_BYTES = 4 << 20  # the same in bytes, at which a piece ends
_DICTIONARY_BYTES = 32 << 20  # of dictionary values that are copied to their rows at a time

_Rejects = dict[int, str]  # by row of a piece


def parquet_pieces(
    file: CorpusFile,
    source: BinaryIO,
    shard: Shard,
    spec: CorpusSpec,
    columns: tuple[str, ...] | None,
    first_row: int,
    decode_rows: int,
    growth: GrowthLimit,
) -> Iterator[pa.RecordBatch]:
    """The shard's rows from `first_row` on, at most `decode_rows` decoded at a time.

    `columns` of the file are added as `source`; None adds all. Raises InputError naming the file if it is damaged.
    """
    fields = [spec.text_field, *(name for name in (spec.id_field, spec.domain_field) if name is not None)]
    try:
        # No pre-buffering: it would hold whole row groups in memory.
        parquet = pq.ParquetFile(source, pre_buffer=False, buffer_size=_READ_BYTES)
        names = None if columns is None else list(dict.fromkeys((*fields, *columns)))
        decoded = _decoded(parquet, range(shard.start, shard.stop), names, first_row, decode_rows)
        for batch in _gathered(decoded, fields, growth):
            for piece in _split_dictionaries(batch, fields):
                yield _piece(piece, spec, columns)
    except MemoryError:  # Arrow's MemoryError is an ArrowException too
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{file.url}: cannot be read as Parquet ({reason(error)})") from None


def _decoded(
    parquet: pq.ParquetFile, groups: range, names: list[str] | None, first_row: int, decode_rows: int
) -> Iterator[pa.RecordBatch]:
    schema = parquet.metadata.schema
    leaves = [i for i in range(len(schema)) if names is None or schema.column(i).path.partition(".")[0] in names]
    skip = first_row
    for number in groups:
        group = parquet.metadata.row_group(number)
        if skip >= group.num_rows:
            skip -= group.num_rows
            continue
        size = sum(group.column(i).total_uncompressed_size for i in leaves)
        rows = max(1, min(decode_rows, _DECODE_BYTES * group.num_rows // max(1, size)))
        for batch in parquet.iter_batches(rows, row_groups=[number], columns=names, use_threads=False):
            if skip < len(batch):
                yield batch.slice(skip)
            skip = max(0, skip - len(batch))


def _gathered(batches: Iterator[pa.RecordBatch], fields: list[str], growth: GrowthLimit) -> Iterator[pa.RecordBatch]:
    """The same rows in batches that are worth the overhead of Arrow's functions."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        decoded = batch.nbytes + _dictionary_bytes(batch, fields)
        growth.add_bytes(decoded)
        growth.add_rows(len(batch))
        held.append(batch)
        rows, size = rows + len(batch), size + decoded
        if rows >= _PIECE_ROWS or size >= _PIECE_BYTES:
            yield pa.concat_batches(held) if len(held) > 1 else batch
            held, rows, size = [], 0, 0
    if held:
        yield pa.concat_batches(held)


def _split_dictionaries(batch: pa.RecordBatch, fields: list[str]) -> Iterator[pa.RecordBatch]:
    """The batch in pieces whose dictionary-encoded fields stay small when they are decoded."""
    if len(batch) > 1 and _dictionary_bytes(batch, fields) > _DICTIONARY_BYTES:
        half = len(batch) // 2
        yield from _split_dictionaries(batch.slice(0, half), fields)
        yield from _split_dictionaries(batch.slice(half), fields)
    else:
        yield batch


def _dictionary_bytes(batch: pa.RecordBatch, fields: list[str]) -> int:
    """The size of the dictionary-encoded fields when they are decoded."""
    size = 0
    for name in set(fields):
        column = batch[name]
        if pa.types.is_dictionary(column.type) and is_string_like(column.type.value_type):
            lengths = pc.binary_length(_binary(column.dictionary)).take(column.indices)
            size += pc.sum(lengths).as_py() or 0
    return size


def _piece(batch: pa.RecordBatch, spec: CorpusSpec, columns: tuple[str, ...] | None) -> pa.RecordBatch:
    fields = {
        name: _plain(batch[name]) for name in (spec.text_field, spec.id_field, spec.domain_field) if name is not None
    }
    rejects: _Rejects = {}
    for column in fields.values():
        if is_string_like(column.type):
            rejects |= dict.fromkeys(_where(_byte_lengths(column) > DOCUMENT_BYTES_MAX), TOO_LONG)
    if rejects:
        fields = {name: _without(column, rejects) for name, column in fields.items()}
    labels: list[Any] = []
    for name, about in ((spec.id_field, "id"), (spec.domain_field, "domain")):
        if name is None:
            labels.append(pa.nulls(len(batch), pa.string()))
            continue
        found, errors = _hosts(fields[name]) if about == "domain" and name == "url" else _labels(fields[name])
        labels.append(found)
        for row, error in errors.items():
            rejects.setdefault(row, f"{UNREADABLE}: its {about} is {error}")
    if rejects:
        labels = [_without(column, rejects) for column in labels]
    text, errors = _text(fields[spec.text_field])
    rejects = errors | rejects
    reject = pa.nulls(len(batch), pa.string())
    if rejects:
        text = _without(text, rejects)
        reject = pa.array([rejects.get(row) for row in range(len(batch))], pa.string())
    return make_batch(text, labels[0], labels[1], reject, _source(batch, columns))


def _source(batch: pa.RecordBatch, columns: tuple[str, ...] | None) -> Any:
    if columns == ():
        return None
    if columns is None:
        return pa.StructArray.from_arrays(batch.columns, fields=list(batch.schema))
    there = {name: batch[name] if name in batch.schema.names else pa.nulls(len(batch)) for name in columns}
    return pa.StructArray.from_arrays(list(there.values()), list(there))


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


def _plain(column: Any) -> Any:
    """The column without dictionary encoding; strings and views as large_binary."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return _binary(column) if is_string_like(column.type) else column


def _binary(column: Any) -> Any:
    return column.cast(pa.large_binary()) if is_string_like(column.type) else column


def _byte_lengths(column: Any) -> np.ndarray:
    """The length of each value of a large_binary or large_string array, int64 [rows]; 0 for nulls."""
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    lengths = np.diff(offsets)
    if column.null_count:
        lengths[_is_null(column)] = 0
    return lengths


def _too_long(text: Any) -> list[int]:
    """The rows of a large_string array that are too long for a label."""
    if _byte_lengths(text).max(initial=0) <= LABEL_CHARACTERS_MAX:
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
    return pc.if_else(pa.array(mask), pa.scalar(None, column.type), column)


def _python_values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except (OverflowError, ValueError):
        if not pa.types.is_temporal(column.type):
            raise
        # datetime cannot hold these times: out of range, nanoseconds, or an unknown zone.
        if pa.types.is_timestamp(column.type) and column.type.tz is not None:
            column = column.cast(pa.timestamp(column.type.unit, "UTC"))
        return column.cast(pa.string()).to_pylist()  # type: ignore[no-any-return]

"""Score tables: Parquet files of the same columns, read in parts of some row groups."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus.files import open_path
from pruner.corpus.listing import LeftOut, find_files
from pruner.corpus.parquet_footer import footer_digest, read_footer
from pruner.corpus.paths import UNRESTRICTED, CorpusPath
from pruner.errors import InputError, reason
from pruner.spec import CorpusSpec
from pruner.tables.parquet_parts import TablePart, row_group_parts

PERCENTILE = "percentile"
_BATCH_ROWS, _BATCH_BYTES = 1 << 17, 32 << 20
_FOOTERS = 64  # that are kept in memory


@dataclass(frozen=True)
class Table:
    """A Parquet file. `footer` is the SHA-256 of its footer, 64 hex digits."""

    path: CorpusPath
    size: int
    rows: int
    footer: str

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.url.rpartition("/")[2]


@dataclass(frozen=True)
class Tables:
    """Tables of the same columns, in the order given."""

    tables: tuple[Table, ...]
    parts: tuple[TablePart, ...]
    schema: pa.Schema
    left_out: tuple[LeftOut, ...] = ()  # files that are no tables

    @cached_property
    def rows(self) -> int:
        """The rows of all tables."""
        return sum(part.rows for part in self.parts)

    @property
    def copied(self) -> pa.Schema:
        """The columns of a manifest that are those of the tables: percentiles of an earlier selection are not."""
        return pa.schema([field for field in self.schema if field.name != PERCENTILE])

    def name(self, table: int) -> str:
        """The path or URL of a table."""
        return self.tables[table].path.url

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a part. Raises InputError naming the table."""
        at = self.parts[part]
        with self._opened(at.table) as parquet:
            rows = parquet.read_row_groups(range(at.start, at.stop), list(columns), use_threads=False)
            return self._cast(rows, columns)

    def batches(self, part: int) -> Iterator[pa.Table]:
        """All rows of a part, with the columns of a manifest, some at a time. Raises InputError naming the table."""
        at = self.parts[part]
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * at.rows // max(1, at.size)))
        with self._opened(at.table) as parquet:
            names = self.copied.names
            for batch in parquet.iter_batches(rows, range(at.start, at.stop), names, use_threads=False):
                yield self._cast(pa.Table.from_batches([batch]), names)

    def _cast(self, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
        """The columns with the types that all tables have."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        rows = rows.select(list(columns))
        return rows if rows.schema.equals(schema) else rows.cast(schema)

    @contextmanager
    def _opened(self, number: int) -> Iterator[pq.ParquetFile]:
        table = self.tables[number]
        try:
            with open_path(table.path, UNRESTRICTED) as source:
                yield pq.ParquetFile(source, metadata=_metadata(table), pre_buffer=False)
        except MemoryError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{table.path.url}: cannot be read ({reason(error)}); write the table again") from None


@lru_cache(maxsize=_FOOTERS)
def _metadata(table: Table) -> pq.FileMetaData:
    with open_path(table.path, UNRESTRICTED) as source:
        if footer_digest(table.path.url, source) != table.footer:
            raise InputError(f"{table.path.url}: has changed while it was read; run the command again")
        return pq.read_metadata(source)


def open_tables(
    paths: list[str], include: Sequence[str] = (), exclude: Sequence[str] = (), ignored: Sequence[str] = ()
) -> Tables:
    """Finds tables and reads their footers; of a folder or glob the tables are sorted by name.

    `include`, `exclude` and `ignored` are as of a corpus. A file that several paths name is read once, at the first
    place.

    Raises InputError for a path without tables, a file that is no Parquet, and tables whose columns differ.
    """
    tables, parts, schema = list[Table](), list[TablePart](), None
    listing = find_files(CorpusSpec(paths=paths, include=list(include), exclude=list(exclude)), ignored=ignored)
    for found in listing.files:
        url = found.url
        with open_path(found.path, UNRESTRICTED) as source:
            if source.read(4) != b"PAR1":
                raise InputError(f"{url}: is no Parquet file; score tables are Parquet")
            digest = footer_digest(url, source)
            parquet = read_footer(url, found.size, source)
            columns = _columns(url, parquet.schema_arrow)
            schema = columns if schema is None else _joined(tables[0].path.url, schema, url, columns)
            tables.append(Table(found.path, found.size, parquet.metadata.num_rows, digest))
            parts += row_group_parts(len(tables) - 1, parquet.metadata)
    if schema is None or not parts:
        raise InputError(f"{', '.join(paths)}: the tables have no rows")
    return Tables(tuple(tables), tuple(parts), schema, listing.left_out)


def _columns(url: str, schema: pa.Schema) -> pa.Schema:
    names = schema.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{url}: has two columns named {twice!r}; name them differently")
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type, without the layouts of texts that Arrow cannot filter; Parquet stores them alike."""
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _joined(first: str, schema: pa.Schema, url: str, columns: pa.Schema) -> pa.Schema:
    """The columns of two tables. One without any value, whose type is null, has the type of the other's.

    Raises InputError where columns are missing or differ.
    """
    for name in dict.fromkeys([*schema.names, *columns.names]):
        kinds = [some.field(name).type if name in some.names else None for some in (schema, columns)]
        if kinds[0] == kinds[1] or (None not in kinds and pa.null() in kinds):
            continue
        said = ["missing" if kind is None else f"of type {kind}" for kind in kinds]
        raise InputError(
            f"{url}: the column {name!r} is {said[1]}, but {said[0]} in {first}; give tables of the same columns"
        )
    pairs = ((field, columns.field(field.name)) for field in schema)
    return pa.schema([other if pa.types.is_null(field.type) else field for field, other in pairs])

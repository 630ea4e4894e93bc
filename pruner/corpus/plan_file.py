"""The stored plan, plan.parquet: a row for each shard, the files in the metadata key `winnow`."""

from dataclasses import replace

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus.files import CorpusFile
from pruner.corpus.listing import LeftOut
from pruner.corpus.plan import Plan, Shard
from pruner.tables.part_file import named_damage
from pruner.tables.records import Record, parse_record
from pruner.tables.storage import Storage


class _PlanMetadata(Record):
    """What plan.parquet holds beside its rows, the shards."""

    files: tuple[CorpusFile, ...]
    left_out: tuple[LeftOut, ...] = ()
    decoded_ranges: bool = False  # shards of compressed files are ranges of the text; earlier versions had none


_COLUMNS = pa.schema(
    [
        ("index", pa.int64()),
        ("file", pa.int64()),
        ("files", pa.int64()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("rows", pa.int64()),
        ("text_bytes", pa.int64()),
        ("digest", pa.string()),
    ]
)


def write_plan(storage: Storage, path: str, plan: Plan) -> None:
    """Writes a plan as Parquet: a row for each shard, the files in the metadata key `winnow`."""
    columns = [
        pa.array([getattr(shard, name) for shard in plan.shards], _COLUMNS.field(name).type) for name in _COLUMNS.names
    ]
    about = _PlanMetadata(files=plan.files, left_out=plan.left_out, decoded_ranges=True)
    metadata = {"winnow": orjson.dumps(about.model_dump())}
    with storage.create(path) as out:
        pq.write_table(pa.table(columns, schema=_COLUMNS.with_metadata(metadata)), out, compression="zstd")


def read_plan(storage: Storage, path: str) -> Plan:
    """Reads a plan. Raises FileNotFoundError, and InputError if it is damaged or has another format version."""
    with storage.open(path) as source, named_damage(storage, path):
        table = pq.read_table(source)
    metadata = parse_record((table.schema.metadata or {}).get(b"winnow", b"{}"), _PlanMetadata, path)
    if "files" not in table.schema.names:  # of an earlier version, whose shards have one file each
        table = table.add_column(2, "files", pa.array([1] * len(table)))
    shards = tuple(Shard(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True))
    if not metadata.decoded_ranges:  # the size of a compressed file was the end of its only shard
        plain = [file.compression is None for file in metadata.files]
        shards = tuple(shard if plain[shard.file] else replace(shard, stop=0) for shard in shards)
    return Plan(metadata.files, shards, metadata.left_out)

"""The stored plan: the shards in plan.parquet, and the files in files.parquet beside it."""

from dataclasses import replace

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus.files import CorpusFile
from pruner.corpus.listing import LeftOut
from pruner.corpus.plan import Plan
from pruner.corpus.plan_rows import FILES, PlanRows, file_rows, planned_files, planned_shards, shard_rows
from pruner.corpus.shard import Shard
from pruner.tables.part_file import named_damage
from pruner.tables.records import Record, parse_record
from pruner.tables.storage import Storage

FILES_FILE = "files.parquet"
_GROUP_ROWS = 1 << 16


class _PlanMetadata(Record):
    """What plan.parquet holds beside its rows, the shards."""

    files: tuple[CorpusFile, ...] | None = None  # None: in files.parquet; earlier versions had them here
    left_out: tuple[LeftOut, ...] = ()
    decoded_ranges: bool = False  # shards of compressed files are ranges of the text; earlier versions had none


def write_plan(storage: Storage, path: str, plan: Plan) -> None:
    """Writes a plan as Parquet: a row for each file in files.parquet, then a row for each shard in `path`."""
    files, shards = plan.files, plan.shards
    file_table = files.table if isinstance(files, PlanRows) else pa.Table.from_batches([file_rows(files)])
    shard_table = shards.table if isinstance(shards, PlanRows) else pa.Table.from_batches([shard_rows(shards)])
    about = _PlanMetadata(left_out=plan.left_out, decoded_ranges=True)
    metadata = {"winnow": orjson.dumps(about.model_dump())}
    for where, table in ((_files_path(path), file_table), (path, shard_table.replace_schema_metadata(metadata))):
        with storage.create(where) as out:
            pq.write_table(table, out, compression="zstd", row_group_size=_GROUP_ROWS)


def read_plan(storage: Storage, path: str) -> Plan:
    """Reads a plan. Raises FileNotFoundError, and InputError if it is damaged or has another format version."""
    table = _read(storage, path)
    metadata = parse_record((table.schema.metadata or {}).get(b"winnow", b"{}"), _PlanMetadata, path)
    if metadata.files is None:
        files = planned_files(_read(storage, _files_path(path)).cast(FILES))
        return Plan(files, planned_shards(table.replace_schema_metadata(None)), metadata.left_out)
    if "files" not in table.schema.names:  # of an earlier version, whose shards have one file each
        table = table.add_column(2, "files", pa.array([1] * len(table)))
    shards = tuple(Shard(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True))
    if not metadata.decoded_ranges:  # the size of a compressed file was the end of its only shard
        plain = [file.compression is None for file in metadata.files]
        shards = tuple(shard if plain[shard.file] else replace(shard, stop=0) for shard in shards)
    return Plan(metadata.files, shards, metadata.left_out)


def _files_path(path: str) -> str:
    return f"{path.rpartition('/')[0]}/{FILES_FILE}".lstrip("/")


def _read(storage: Storage, path: str) -> pa.Table:
    with storage.open(path) as source, named_damage(storage, path):
        return pq.read_table(source)

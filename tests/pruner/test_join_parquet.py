"""Joined Parquet files hold the rows of their parts, as every reader sees them."""

import io
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.tables.hashing_writer import HashingWriter
from pruner.tables.join_parquet import ParquetJoiner

ROWS = [
    {
        "text": "ä" * (n % 7),
        "number": n if n % 3 else None,
        "value": n / 7,
        "flags": [True, False] if n % 2 else None,
        "inside": {"a": str(n), "b": [n]},
        "at": datetime(2024, 1, 1, tzinfo=timezone.utc),
        "price": Decimal("1.25"),
        "bytes": bytes([n % 256]),
        "bit": n % 5 == 0,
    }
    for n in range(1_000)
]


def written(rows: pa.Table, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    pq.write_table(rows, file, **options)
    return file


def joined(parts: list[io.BytesIO]) -> io.BytesIO:
    file = io.BytesIO()
    joiner = ParquetJoiner(HashingWriter(file))
    for part in parts:
        joiner.add(part)
    joiner.close()
    return file


@pytest.mark.parametrize("options", [{}, {"compression": "zstd", "use_dictionary": False}, {"write_page_index": True}])
def test_joined_files_hold_all_rows(options: Any) -> None:
    table = pa.Table.from_pylist(ROWS).replace_schema_metadata({"winnow": "{}"})
    parts = [written(table.slice(*part), row_group_size=64, **options) for part in ((0, 400), (400, 0), (400, 600))]
    file = pq.ParquetFile(joined(parts))
    assert file.read().equals(pq.ParquetFile(written(table)).read(), check_metadata=True)
    assert file.metadata.num_rows == 1_000
    assert file.num_row_groups == 7 + 10
    assert file.read_row_group(9).to_pylist() == ROWS[400 + 128 : 400 + 192]


def test_files_of_no_rows_join_to_a_file_of_no_rows() -> None:
    table = pa.Table.from_pylist(ROWS[:1]).slice(0, 0)
    assert pq.ParquetFile(joined([written(table), written(table)])).read().equals(table)


def test_other_readers_read_joined_files(tmp_path: Path) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    table = pa.Table.from_pylist(ROWS).select(["text", "number", "value"])
    (tmp_path / "all.parquet").write_bytes(joined([written(table.slice(0, 500)), written(table.slice(500))]).getvalue())
    for found in (
        duckdb.sql(f"SELECT * FROM '{tmp_path}/all.parquet'").to_arrow_table(),
        polars.read_parquet(tmp_path / "all.parquet").to_arrow(),
    ):
        assert found.to_pylist() == table.to_pylist()


def test_a_file_of_another_schema_is_refused() -> None:
    parts = [written(pa.table({name: [1]})) for name in "ab"]
    with pytest.raises(ValueError, match="different schemas"):
        joined(parts)

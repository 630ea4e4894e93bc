"""Tables as one file or as a folder of parts: how they are joined, and how all readers see the same rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.tables import table_files
from pruner.tables.storage import Storage
from pruner.tables.stored_table import StoredTable, table_batches
from pruner.tables.table_files import join_files, parts_of
from pruner.tables.table_writer import TableWriter

SIZES = [3, 0, 4, 1, 5, 2]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def sources(storage: Storage) -> list[str]:
    """Files with the rows 0 to 14."""
    first, paths = 0, []
    for number, size in enumerate(SIZES):
        rows = range(first, first + size)
        table = pa.table(
            {"file": pa.array([f"f{row // 4}" for row in rows], pa.string()), "row": pa.array(rows, pa.int64())}
        )
        paths.append(f"sources/{number}.parquet")
        with storage.create(paths[-1]) as file, TableWriter(file, table.schema) as writer:
            writer.add(table)
        first += size
    return paths


@pytest.mark.parametrize(
    ("limit", "part_rows", "names"),
    [
        (15, 5, ["table.parquet"]),
        (
            14,
            5,
            [
                "table.parquet/part-00000.parquet",
                "table.parquet/part-00001.parquet",
                "table.parquet/part-00002.parquet",
            ],
        ),
        (0, 100, ["table.parquet/part-00000.parquet"]),
    ],
)
def test_a_table_has_the_same_rows_in_either_form(
    storage: Storage,
    sources: list[str],
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    part_rows: int,
    names: list[str],
) -> None:
    monkeypatch.setattr(table_files, "ONE_FILE_ROWS", limit)
    monkeypatch.setattr(table_files, "PART_FILE_ROWS", part_rows)
    written = join_files(storage, "made", "table.parquet", 15, sources, lambda: None)
    assert list(written) == names
    assert table_files.table_files(storage, "made/table.parquet") == [f"made/{name}" for name in names]
    assert list(parts_of(written, "table.parquet")) == [name.partition("/")[2] for name in names if "/" in name]
    for name, about in written.items():
        assert storage.size(f"made/{name}") == about.size
    table = StoredTable(storage, "made/table.parquet")
    assert (table.rows, table.schema.names) == (15, ["file", "row"])
    assert [part.first_row for part in table.parts] == [
        sum(part.rows for part in table.parts[:n]) for n in range(len(table.parts))
    ]
    assert [row for part in range(len(table.parts)) for row in table.read(part, ["row"])["row"].to_pylist()] == [
        *range(15)
    ]
    for start in range(15):
        for rows in range(16 - start):
            found = [row for batch in table.read_rows(start, rows, ["row", "file"]) for row in batch["row"].to_pylist()]
            assert found == [*range(start, start + rows)]
    assert [
        row for batch in table_batches(storage, "made/table.parquet", ["row"]) for row in batch["row"].to_pylist()
    ] == [*range(15)]
    assert pq.read_table(storage.local("made/table.parquet"))["row"].to_pylist() == [*range(15)]


def test_parts_are_in_the_order_of_their_numbers() -> None:
    assert table_files.part_name(7) == "part-00007.parquet"
    storage = Storage("memory://parts")
    for number in (100_000, 99_999, 2):
        storage.write_bytes(f"t.parquet/{table_files.part_name(number)}", b"")
    storage.write_bytes("t.parquet/part-00002.jsonl", b"")
    assert table_files.table_files(storage, "t.parquet") == [
        f"t.parquet/{name}" for name in ("part-00002.parquet", "part-99999.parquet", "part-100000.parquet")
    ]

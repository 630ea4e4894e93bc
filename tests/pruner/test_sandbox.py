"""The sandbox reads as this process does, and no file can harm this process."""

import bz2
import gzip
import json
import lzma
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.corpus import reader_process, sandbox
from pruner.corpus.files import CorpusFile
from pruner.corpus.paths import UNRESTRICTED, CorpusPath, Roots
from pruner.corpus.plan import Plan, make_plan
from pruner.corpus.sandbox_main import MEMORY_BYTES, Output, _respond
from pruner.corpus.shard_reader import read_shard
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from tests.pruner.conftest import FORMATS, Rows, column, jsonl, parquet, zstd
from tests.pruner.test_formats import arrow, table

KNOWN = ["gzip", "parquet", "zstd"]


def batches(spec: CorpusSpec, roots: Roots = UNRESTRICTED) -> list[pa.RecordBatch]:
    plan = sandbox.make_plan(spec, roots)
    return [batch for shard in plan.shards for batch in sandbox.read_shard(plan, shard, spec, roots)]


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        batches(CorpusSpec(paths=[str(path)]))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def good(tmp_path: Path) -> Iterator[CorpusSpec]:
    """A corpus that can be read before and after whatever a test does."""
    path = tmp_path / "good.jsonl"
    path.write_bytes(jsonl([{"text": "good"}]))
    spec = CorpusSpec(paths=[str(path)])
    assert column(batches(spec), "text") == ["good"]
    yield spec
    assert column(batches(spec), "text") == ["good"]


@pytest.mark.parametrize("columns", [(), ("id", "gone"), None])
def test_plans_and_batches_equal_those_of_this_process(corpus_file: Path, columns: tuple[str, ...] | None) -> None:
    spec = CorpusSpec(paths=[str(corpus_file)], id_field="id", domain_field="domain")
    plan = make_plan(spec)
    planning = sandbox.Planning()
    assert sandbox.make_plan(spec, planning=planning) == plan
    assert planning == sandbox.Planning(listed=len(plan.files), looked=len(plan.files))
    for shard in plan.shards:
        expected = list(read_shard(plan.files_of(shard), shard, spec, columns=columns))
        assert list(sandbox.read_shard(plan, shard, spec, columns=columns)) == expected


def test_one_row_is_read_alone(corpus_file: Path, rows: Rows) -> None:
    spec = CorpusSpec(paths=[str(corpus_file)])
    plan = make_plan(spec)
    for row in (0, 7, 30, len(rows) - 1):
        (batch,) = sandbox.read_shard(plan, plan.shards[0], spec, only=row)
        assert batch["text"].to_pylist() == [rows[row]["text"]]
    assert list(sandbox.read_shard(plan, plan.shards[0], spec, only=len(rows))) == []


def test_a_changed_environment_starts_a_new_reader(s3_url: str, rows: Rows, good: CorpusSpec) -> None:
    import fsspec

    fsspec.filesystem("s3").pipe_file(f"{s3_url}/rows.parquet", FORMATS["rows.parquet"](rows))
    found = batches(CorpusSpec(paths=[f"{s3_url}/*.parquet"]))
    assert column(found, "text") == [row["text"] for row in rows]


def test_input_errors_are_passed_on(good: CorpusSpec, tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(jsonl([{"text": "x" * 99}]))[:-9])
    assert "cannot be read (it is truncated)" in refused(tmp_path / "cut.jsonl.gz")


def test_the_reader_checks_roots(good: CorpusSpec, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link.jsonl").symlink_to(tmp_path / "good.jsonl")
    roots = Roots([str(tmp_path / "root")])
    for path in (tmp_path / "good.jsonl", tmp_path / "root/link.jsonl"):
        with pytest.raises(InputError, match="corpus root"):
            sandbox.make_plan(CorpusSpec(paths=[str(path)]), roots)


def test_a_killed_reader_is_replaced_and_no_row_is_lost_or_doubled(
    tmp_path: Path, rows: Rows, good: CorpusSpec
) -> None:
    path = tmp_path / "long.jsonl"
    path.write_bytes(jsonl([{"text": f"{i} {'x' * 100}"} for i in range(20_000)]))
    spec = CorpusSpec(paths=[str(path)])
    plan = sandbox.make_plan(spec)
    found: list[str | None] = []
    for number, batch in enumerate(sandbox.read_shard(plan, plan.shards[0], spec)):
        found += batch["text"].to_pylist()
        if number == 2:
            for reader in readers():
                os.kill(reader, signal.SIGKILL)
    assert [str(text).partition(" ")[0] for text in found] == [str(i) for i in range(20_000)]


def readers() -> list[int]:
    """The process ids of this process' readers."""
    mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in mine if "pruner.corpus.sandbox_main" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_abandoned_reading_ends_its_process(tmp_path: Path) -> None:
    sandbox.close_idle()
    path = tmp_path / "long.jsonl"
    path.write_bytes(jsonl([{"text": "x" * 1000}] * 20_000))
    spec = CorpusSpec(paths=[str(path)])
    plan = sandbox.make_plan(spec)
    reading = sandbox.read_shard(plan, plan.shards[0], spec)
    next(reading)
    assert len(readers()) == 1
    reading.close()
    assert readers() == []


def test_readers_end_with_their_parent(tmp_path: Path, good: CorpusSpec) -> None:
    script = f"""
import sys, time
from pruner.corpus import sandbox
from pruner.spec import CorpusSpec
sandbox.make_plan(CorpusSpec(paths={good.paths!r}))
print(sandbox._idle[sandbox._PROGRAM][0].pid, flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reader = int(process.stdout.readline())
    watched = os.pidfd_open(reader)
    process.kill()
    process.wait()
    process.stdout.close()
    import select

    assert select.select([watched], [], [], 30)[0], "the reader is still there"
    os.close(watched)


def test_waiting_may_end_the_reading(tmp_path: Path, good: CorpusSpec) -> None:
    class Cancelled(Exception):
        pass

    def cancel() -> None:
        raise Cancelled

    plan, spec = never_read(tmp_path)
    with pytest.raises(Cancelled):
        list(sandbox.read_shard(plan, plan.shards[0], spec, waiting=cancel))


def never_read(folder: Path) -> tuple[Plan, CorpusSpec]:
    """The plan of a file whose opening blocks for ever."""
    path = folder / "never.jsonl"
    os.mkfifo(path)
    file = CorpusFile(CorpusPath("file", str(path)), "jsonl", None, 0, str(path.stat().st_mtime_ns), path.name)
    spec = CorpusSpec(paths=[str(folder / "good.jsonl")])
    return Plan((file,), make_plan(spec).shards), spec


def test_a_reader_that_hangs_is_killed_and_the_file_is_named(
    tmp_path: Path, good: CorpusSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, spec = never_read(tmp_path)
    monkeypatch.setattr(reader_process, "_SILENCE_SECONDS", 1.0)
    with pytest.raises(InputError, match=r"never\.jsonl: gives no progress for 1 s; leave the file out"):
        list(sandbox.read_shard(plan, plan.shards[0], spec))


# -- bombs
def repeated(path: Path, mib: int, rows: int) -> Path:
    """Parquet of some hundred bytes: one long value in a dictionary, and many rows that point to it."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * (mib << 20)]))
    table = pa.table({"text": column})
    pq.write_table(
        table, path, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False, write_statistics=False
    )
    return path


def page(path: Path) -> Path:
    """Parquet with one page of 550 MiB, in a few KiB."""
    table = pa.table({"text": pa.array([bytes(550 << 20)], pa.large_binary())})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False, store_schema=False)
    return path


def wide(path: Path) -> Path:
    """Parquet with more columns than any corpus has."""
    names = [f"c{i}" for i in range(20_000)]
    table = pa.Table.from_arrays([pa.array(["a"])] * len(names), names)
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False, store_schema=False)
    return path


def gigabyte_line(path: Path) -> Path:
    with path.open("wb") as out:
        out.write(b'{"text": "')
        out.truncate(1 << 30)
        out.seek(1 << 30)
        out.write(b'"}\n{"text": "after"}\n')
    return path


def zstd_line(path: Path) -> Path:
    """32 KB that become one line of 1 GiB."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        for _ in range(1024):
            out.write(b"x" * (1 << 20))
    path.write_bytes(sink.getvalue().to_pybytes())
    return path


def newlines(path: Path) -> Path:
    path.write_bytes(zstd(b"\n" * (200 << 20)))
    return path


def streams(path: Path) -> Path:
    """Some KB that become a line of 1 GiB, in the codec of the name."""
    encode = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[path.suffix]
    path.write_bytes(encode(b"x" * (64 << 20)) * 16)
    return path


def open_quote(path: Path) -> Path:
    path.write_bytes(b'text,id\na,1\n"never closed' + b"\nmore text" * (8 << 20))
    return path


def one_record_batch(path: Path) -> Path:
    """An Arrow stream of a few hundred KB with one record batch of 1.1 GiB."""
    texts = pa.array(["x" * (1 << 20)]).take(pa.array([0] * 1126))
    table = pa.table({"text": texts.cast(pa.large_string())})
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as out:
        out.write_table(table)
    return path


BOMBS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "rows.parquet": (lambda path: repeated(path, 1, 4096), "become more than 1,000 times as many"),
    "long-rows.parquet": (lambda path: repeated(path, 32, 640), "become more than 1,000 times as many"),
    "page.parquet": (page, "cannot be read within 1,024 MiB of memory"),
    "wide.parquet": (wide, "has 20,000 columns"),
    "line.jsonl.zst": (zstd_line, "become more than 1,000 times as many"),
    "line.jsonl.gz": (streams, "become more than 1,000 times as many"),
    "line.jsonl.bz2": (streams, "become more than 1,000 times as many"),
    "line.jsonl.xz": (streams, "become more than 1,000 times as many"),
    "quote.csv": (open_quote, "value over 64 MiB; check for a quote that is not closed"),
    "batch.arrow": (one_record_batch, "cannot be read within 1,024 MiB of memory"),
    "newlines.jsonl.zst": (newlines, "become more rows than bytes"),
}


def test_a_library_that_runs_out_of_memory_fails_as_such() -> None:
    """orjson raises a SystemError, whose cause is the MemoryError."""

    def answer() -> None:
        raise SystemError("loads returned a result with an exception set") from MemoryError()

    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as pipe, pytest.raises(SystemExit):
        _respond(answer, Output(pipe, memoryview(bytearray(8))))
    with os.fdopen(reading, "rb") as sent:
        assert b'"kind":"memory"' in sent.read()


def bomb(folder: Path, name: str) -> tuple[Path, str]:
    """The bomb of this name in the folder, where it is made unless it is there, and what is said of it."""
    (make, said), path = BOMBS[name], folder / name
    return path if path.exists() else make(path), said


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_fails_by_its_name_and_within_fixed_memory(bombs: Path, good: CorpusSpec, name: str) -> None:
    path, said = bomb(bombs, name)
    assert path.stat().st_size < 100 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refused(path)
    assert said in message
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < 200 << 20


def test_the_reader_cannot_take_more_than_its_limit() -> None:
    script = f"""
from pruner.corpus.sandbox_main import _limit_memory
_limit_memory()
try:
    bytearray({MEMORY_BYTES + (128 << 20)})  # threads that end meanwhile leave room for their stacks
except MemoryError:
    print("refused")
bytearray({MEMORY_BYTES} // 2)
print("given")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["refused", "given"]


def test_a_line_of_a_gigabyte_is_a_reject(tmp_path: Path, good: CorpusSpec) -> None:
    found = batches(CorpusSpec(paths=[str(gigabyte_line(tmp_path / "long.jsonl"))]))
    assert column(found, "text") == [None, "after"]
    assert column(found, "reject")[0] == "unreadable row: longer than 64 MiB"


def test_a_long_document_in_parquet_is_a_reject_and_its_neighbours_are_not(tmp_path: Path, good: CorpusSpec) -> None:
    texts = ["before", "x" * (65 << 20), "after", "é" * (2 << 20)]
    for name, kind in (
        ("string", pa.string()),
        ("view", pa.string_view()),
        ("words", pa.dictionary(pa.int32(), pa.string())),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": pa.array(texts, pa.string()).cast(kind)}), path, compression="none")
        (found,) = batches(CorpusSpec(paths=[str(path)]))
        assert found["text"].to_pylist() == [texts[0], None, *texts[2:]]
        assert found["reject"].to_pylist() == [None, "unreadable row: longer than 64 MiB", None, None]


def test_nested_json_is_a_reject(tmp_path: Path, good: CorpusSpec) -> None:
    deep = [b'{"text": "a", "id": ' + b"[" * n + b"]" * n + b"}" for n in (3, 300, 1_000_000)]
    path = tmp_path / "deep.jsonl"
    path.write_bytes(b"\n".join(deep))
    (found,) = batches(CorpusSpec(paths=[str(path)], id_field="id"))
    assert found["text"].to_pylist() == ["a", None, None]
    assert found["id"].to_pylist() == ["[[[]]]", None, None]
    rejects = found["reject"].to_pylist()
    assert rejects[1] == "unreadable row: its id is nested too deep"
    assert rejects[2].startswith("unreadable row: invalid JSON")


def test_a_long_label_is_a_reject(tmp_path: Path, good: CorpusSpec) -> None:
    rows = [{"text": "a", "id": "x" * n, "domain": "y" * m} for n, m in ((16_384, 1), (16_385, 1), (1, 1 << 20))]
    for name, encode in (("labels.jsonl", jsonl), ("labels.parquet", parquet)):
        (tmp_path / name).write_bytes(encode(rows))
        spec = CorpusSpec(paths=[str(tmp_path / name)], id_field="id", domain_field="domain")
        (found,) = batches(spec)
        assert found["text"].to_pylist() == ["a", None, None]
        assert found["reject"].to_pylist() == [
            None,
            "unreadable row: its id is longer than 16,384 characters",
            "unreadable row: its domain is longer than 16,384 characters",
        ]


def test_a_footer_that_claims_more_rows_than_bytes_is_refused(tmp_path: Path, good: CorpusSpec) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": pa.nulls(1_100_000, pa.string())}), path, compression="zstd")
    assert "claims 1,100,000 rows" in refused(path)


# -- damaged files
EXAMPLES = int(os.environ.get("WINNOW_FUZZ_EXAMPLES", "50"))
damage = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=6)
ROWS: Rows = [{"text": f"text {i} é" * (i % 7), "id": i, "domain": {"a": [i]}} for i in range(60)]
SOUND = {
    "a.parquet": parquet([{**row, "domain": str(row["domain"])} for row in ROWS], 20),
    "a.jsonl": jsonl(ROWS),
    "a.jsonl.gz": gzip.compress(jsonl(ROWS)),
    "a.jsonl.zst": zstd(jsonl(ROWS)),
    "a.jsonl.bz2": bz2.compress(jsonl(ROWS)),
    "a.jsonl.xz": lzma.compress(jsonl(ROWS)),
    "a.csv": table(ROWS),
    "a.arrow": arrow(ROWS, pa.ipc.new_file),
    "b.arrow": arrow(ROWS, pa.ipc.new_stream, compression="zstd"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("name", SOUND)
@settings(deadline=None, max_examples=EXAMPLES)
@given(changes=damage, cut=st.floats(0, 1) | st.just(1.0))
def test_a_damaged_file_is_read_or_refused_by_its_name(
    folder: Path, name: str, changes: list[tuple[float, bytes]], cut: float
) -> None:
    data = bytearray(SOUND[name])
    for place, piece in changes:
        start = int(place * (len(data) - 1))
        data[start : start + len(piece)] = piece
    (folder / name).write_bytes(data[: int(cut * len(data))])
    found: list[pa.RecordBatch] = []
    try:
        found = batches(CorpusSpec(paths=[str(folder / name)], id_field="id", domain_field="domain"))
    except InputError as error:
        refusal = str(error)
    else:
        refusal = name
    assert name in refusal
    for batch in found:
        batch.validate(full=True)
        assert batch["text"].is_null().equals(batch["reject"].is_valid())


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
lines = st.binary(max_size=60) | st.fixed_dictionaries(
    {}, optional={"text": json_values, "id": json_values, "url": json_values}
).map(lambda value: json.dumps(value).encode())


@given(st.lists(lines.map(lambda line: line.replace(b"\n", b" ")), min_size=1, max_size=20))
@settings(deadline=None, max_examples=EXAMPLES)
def test_each_line_is_one_row_whatever_it_holds(folder: Path, found: list[bytes]) -> None:
    found = [b'{"text": "a", "id": 1, "url": "b"}', *found, b"{}"]
    (folder / "lines.jsonl").write_bytes(b"\n".join(found) + b"\n")
    spec = CorpusSpec(paths=[str(folder / "lines.jsonl")], id_field="id", domain_field="url")
    read = batches(spec)
    assert sum(map(len, read)) == len(found)
    for batch in read:
        assert batch["text"].is_null().equals(batch["reject"].is_valid())

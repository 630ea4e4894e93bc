"""Reading in a process of its own: the same as in this one, and no file can harm who asks for it."""

import gzip
import json
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

from pruner.corpus import sandbox as apart
from pruner.corpus import wire as frames
from pruner.corpus.paths import OWN, Roots
from pruner.corpus.plan import make_plan
from pruner.corpus.sandbox_main import MEMORY_BYTES
from pruner.corpus.shard_reader import Block, read_shard
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from tests.pruner.conftest import FORMATS, Rows, jsonl, parquet, zstd

KNOWN = ["gzip", "parquet", "zstd"]


def blocks(spec: CorpusSpec, roots: Roots = OWN) -> list[Block]:
    plan = apart.make_plan(spec, roots)
    return [block for shard in plan.shards for block in apart.read_shard(plan, shard, spec, roots)]


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        blocks(CorpusSpec(paths=[str(path)]))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def good(tmp_path: Path) -> Iterator[CorpusSpec]:
    """A corpus that can be read before and after whatever a test does."""
    path = tmp_path / "good.jsonl"
    path.write_bytes(jsonl([{"text": "good"}]))
    spec = CorpusSpec(paths=[str(path)])
    assert blocks(spec)[0].texts == ["good"]
    yield spec
    assert blocks(spec)[0].texts == ["good"]


def test_plans_and_blocks_are_those_of_reading_here(corpus_file: Path) -> None:
    spec = CorpusSpec(paths=[str(corpus_file)], id_field="id", domain_field="domain")
    plan = make_plan(spec)
    assert apart.make_plan(spec) == plan
    assert blocks(spec) == [block for shard in plan.shards for block in read_shard(plan, shard, spec)]


def test_stores_are_read_by_the_settings_of_now(s3_url: str, rows: Rows, good: CorpusSpec) -> None:
    import fsspec

    fsspec.filesystem("s3").pipe_file(f"{s3_url}/rows.parquet", FORMATS["rows.parquet"](rows))
    found = blocks(CorpusSpec(paths=[f"{s3_url}/*.parquet"]))
    assert [text for block in found for text in block.texts] == [row["text"] for row in rows]


@given(
    st.lists(st.tuples(*[st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)] * 4), max_size=20)
)
def test_a_block_is_the_same_after_it_was_sent(rows: list[tuple[str | None, ...]]) -> None:
    block = Block()
    for row in rows:
        block.add(*row)
    assert frames.decode_block(memoryview(frames.encode_block(block))) == block


def test_errors_of_the_input_are_said_as_here(good: CorpusSpec, tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(jsonl([{"text": "x" * 99}]))[:-9])
    assert "cannot be read as gzip lines" in refused(tmp_path / "cut.jsonl.gz")


def test_roots_hold_in_the_reader_too(good: CorpusSpec, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link.jsonl").symlink_to(tmp_path / "good.jsonl")
    roots = Roots([str(tmp_path / "root")])
    for path in (tmp_path / "good.jsonl", tmp_path / "root/link.jsonl"):
        with pytest.raises(InputError, match="corpus root"):
            apart.make_plan(CorpusSpec(paths=[str(path)]), roots)


def test_a_reader_that_is_killed_is_started_again_and_no_row_is_lost_or_doubled(
    tmp_path: Path, rows: Rows, good: CorpusSpec
) -> None:
    path = tmp_path / "long.jsonl"
    path.write_bytes(jsonl([{"text": f"{i} {'x' * 100}"} for i in range(20_000)]))
    spec = CorpusSpec(paths=[str(path)])
    plan = apart.make_plan(spec)
    found: list[str | None] = []
    for number, block in enumerate(apart.read_shard(plan, plan.shards[0], spec)):
        found += block.texts
        if number == 2:
            for reader in readers():
                os.kill(reader, signal.SIGKILL)
    assert [str(text).partition(" ")[0] for text in found] == [str(i) for i in range(20_000)]


def readers() -> list[int]:
    """The reader processes of this one."""
    mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in mine if "pruner.corpus.sandbox_main" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_reading_that_is_given_up_leaves_no_process_behind(tmp_path: Path) -> None:
    apart._close()
    path = tmp_path / "long.jsonl"
    path.write_bytes(jsonl([{"text": "x" * 1000}] * 20_000))
    spec = CorpusSpec(paths=[str(path)])
    plan = apart.make_plan(spec)
    reading = apart.read_shard(plan, plan.shards[0], spec)
    next(reading)
    assert len(readers()) == 1
    reading.close()
    assert readers() == []


def test_readers_end_with_the_process_that_they_read_for(tmp_path: Path, good: CorpusSpec) -> None:
    script = f"""
import sys, time
from pruner.corpus import sandbox as apart
from pruner.spec import CorpusSpec
apart.make_plan(CorpusSpec(paths={good.paths!r}))
print(apart._idle[0]._process.pid, flush=True)
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


def test_waiting_may_end_a_reading(tmp_path: Path, good: CorpusSpec) -> None:
    class Cancelled(Exception):
        pass

    def cancel() -> None:
        raise Cancelled

    path = tmp_path / "slow.jsonl.zst"
    path.write_bytes(zstd(b"[" * (60 << 20)))
    os.mkfifo(tmp_path / "never.jsonl")
    spec = CorpusSpec(paths=[str(path)])
    plan = apart.make_plan(spec)
    file = plan.files[0]
    never = type(file)(
        str(tmp_path / "never.jsonl"), "jsonl", None, 0, str((tmp_path / "never.jsonl").stat().st_mtime_ns)
    )
    stuck = type(plan)((never,), (None,), plan.shards)
    with pytest.raises(Cancelled):
        list(apart.read_shard(stuck, stuck.shards[0], spec, waiting=cancel))


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


BOMBS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "rows.parquet": (lambda path: repeated(path, 1, 4096), "become more than 1,000 times as many"),
    "long-rows.parquet": (lambda path: repeated(path, 32, 640), "become more than 1,000 times as many"),
    "page.parquet": (page, "cannot be read within 1,024 MiB of memory"),
    "wide.parquet": (wide, "has 20,000 columns"),
    "line.jsonl.zst": (zstd_line, "become more than 1,000 times as many"),
    "newlines.jsonl.zst": (newlines, "become more rows than bytes"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_fails_by_its_name_and_within_fixed_memory(tmp_path: Path, good: CorpusSpec, name: str) -> None:
    make, said = BOMBS[name]
    path = make(tmp_path / name)
    assert path.stat().st_size < 40 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refused(path)
    assert said in message
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < 200 << 20


def test_the_reader_cannot_take_more_than_its_limit() -> None:
    script = f"""
from pruner.corpus.files import sandbox_main as reader
reader._limit()
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
    found = blocks(CorpusSpec(paths=[str(gigabyte_line(tmp_path / "long.jsonl"))]))
    assert [text for block in found for text in block.texts] == [None, "after"]
    assert found[0].rejects[0] == "unreadable row: longer than 64 MiB"


def test_a_long_document_in_parquet_is_a_reject_and_its_neighbours_are_not(tmp_path: Path, good: CorpusSpec) -> None:
    texts = ["before", "x" * (65 << 20), "after", "é" * (2 << 20)]
    for name, kind in (
        ("string", pa.string()),
        ("view", pa.string_view()),
        ("words", pa.dictionary(pa.int32(), pa.string())),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": pa.array(texts, pa.string()).cast(kind)}), path, compression="none")
        (found,) = blocks(CorpusSpec(paths=[str(path)]))
        assert found.texts == [texts[0], None, *texts[2:]]
        assert found.rejects == [None, "unreadable row: longer than 64 MiB", None, None]


def test_nested_json_is_a_reject(tmp_path: Path, good: CorpusSpec) -> None:
    deep = [b'{"text": "a", "id": ' + b"[" * n + b"]" * n + b"}" for n in (3, 300, 1_000_000)]
    path = tmp_path / "deep.jsonl"
    path.write_bytes(b"\n".join(deep))
    (found,) = blocks(CorpusSpec(paths=[str(path)], id_field="id"))
    assert (found.texts, found.ids) == (["a", None, None], ["[[[]]]", None, None])
    assert str(found.rejects[1]) == "unreadable row: its id is nested too deep"
    assert str(found.rejects[2]).startswith("unreadable row: invalid JSON")


def test_a_long_label_is_a_reject(tmp_path: Path, good: CorpusSpec) -> None:
    rows = [{"text": "a", "id": "x" * n, "domain": "y" * m} for n, m in ((16_384, 1), (16_385, 1), (1, 1 << 20))]
    path = tmp_path / "labels.jsonl"
    path.write_bytes(jsonl(rows))
    (found,) = blocks(CorpusSpec(paths=[str(path)], id_field="id", domain_field="domain"))
    assert found.texts == ["a", None, None]
    assert [str(reject).partition(" is ")[0] for reject in found.rejects[1:]] == [
        "unreadable row: its id",
        "unreadable row: its domain",
    ]


def test_a_footer_that_claims_more_rows_than_bytes_is_refused(tmp_path: Path, good: CorpusSpec) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": pa.nulls(1_100_000, pa.string())}), path, compression="zstd")
    assert "claims 1,100,000 rows" in refused(path)


# -- anything at all
EXAMPLES = int(os.environ.get("WINNOW_FUZZ_EXAMPLES", "50"))
damage = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=6)
ROWS: Rows = [{"text": f"text {i} é" * (i % 7), "id": i, "domain": {"a": [i]}} for i in range(60)]
SOUND = {
    "a.parquet": parquet([{**row, "domain": str(row["domain"])} for row in ROWS], 20),
    "a.jsonl": jsonl(ROWS),
    "a.jsonl.gz": gzip.compress(jsonl(ROWS)),
    "a.jsonl.zst": zstd(jsonl(ROWS)),
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
    found: list[Block] = []
    try:
        found = blocks(CorpusSpec(paths=[str(folder / name)], id_field="id", domain_field="domain"))
    except InputError as error:
        refusal = str(error)
    else:
        refusal = name
    assert name in refusal
    for block in found:
        assert len(block.texts) == len(block.rejects) == len(block.ids) == len(block.domains) == block.rows
        assert all((text is None) != (reject is None) for text, reject in zip(block.texts, block.rejects, strict=True))


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
    (folder / "lines.jsonl").write_bytes(b"\n".join(found) + b"\n")
    spec = CorpusSpec(paths=[str(folder / "lines.jsonl")], id_field="id", domain_field="url")
    read = blocks(spec)
    assert sum(block.rows for block in read) == len(found)
    for block in read:
        for text, reject in zip(block.texts, block.rejects, strict=True):
            assert (text is None) != (reject is None)

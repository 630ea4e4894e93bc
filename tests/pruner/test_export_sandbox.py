"""Exports happen in a reader process: no file can harm this process, and a file appears whole or not at all."""

import bz2
import gzip
import json
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.corpus import sandbox
from pruner.corpus.files import CorpusFile
from pruner.corpus.names import CODECS, FORMATS
from pruner.corpus.paths import CorpusPath, Roots
from pruner.errors import InputError
from pruner.export import export_file as exports
from pruner.export.export_file import export_file, join_parts
from pruner.tables.storage import Storage
from tests.pruner.conftest import jsonl
from tests.pruner.exports import TARGETS, export, kept_rows, planned, scores
from tests.pruner.test_sandbox import EXAMPLES, ROWS, SOUND, bomb, damage


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def long_file(folder: Path) -> Path:
    return write(folder / "a.jsonl", jsonl([{"text": f"{row} {'x' * 1000}"} for row in range(20_000)]))


# -- files that change
@pytest.mark.parametrize("name", SOUND)
def test_a_file_that_has_changed_is_an_error(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, SOUND[name])
    file = planned(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match=f"{name}: changed since it was planned; submit the job again"):
        export(file, [1])
    path.unlink()
    with pytest.raises(InputError, match=f"{name}: cannot be read any more"):
        export(file, [1])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = long_file(tmp_path)
    file, kept, storage = planned(path), kept_rows(range(20_000)), Storage(str(tmp_path / "out"))
    request = exports.ExportRequest(
        file=file, target="same", text_field="text", lines=exports.WHOLE, rows=20_000, roots=None, careful=False
    )
    data = exports._encoded(request, kept, lambda: None)
    next(data)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match=r"a\.jsonl: changed since it was planned"):
        list(data)
    assert not storage.exists("export")


def test_the_reader_checks_roots(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(ROWS))
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link.jsonl").symlink_to(path)
    file = planned(tmp_path / "root/link.jsonl")
    with pytest.raises(InputError, match="leads out of the corpus roots"):
        export(file, [1], roots=Roots([str(tmp_path / "root")]))
    assert export(file, [1], roots=Roots([str(tmp_path)])).read_bytes() == jsonl([ROWS[1]])


# -- files that are hostile or damaged
BOMB_ROWS = {  # which make the reader look at all of a bomb
    "rows.parquet": range(4_096),
    "long-rows.parquet": range(640),
    "page.parquet": [0],
    "batch.arrow": [0],
    "newlines.jsonl.zst": [2_000_000],
    "line.jsonl.zst": [1],
    "line.jsonl.gz": [1],
    "line.jsonl.bz2": [1],
    "line.jsonl.xz": [1],
    "quote.csv": [1],
}


@pytest.mark.parametrize("name", BOMB_ROWS)
def test_a_bomb_fails_by_its_name_and_within_fixed_memory(tmp_path: Path, bombs: Path, name: str) -> None:
    made, said = bomb(bombs, name)
    path = tmp_path / name
    path.hardlink_to(made)
    found, suffixes = path.stat(), path.suffixes
    codec = CODECS.get(suffixes[-1])
    file = CorpusFile(
        CorpusPath("file", str(path)), FORMATS[suffixes[0]], codec, found.st_size, str(found.st_mtime_ns), name
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=rf"^{path}: .*{said}"):
        export(file, BOMB_ROWS[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    assert list((tmp_path / "out").iterdir()) == []


def test_repeated_long_texts_are_exported_row_by_row(tmp_path: Path) -> None:
    """Row groups that are small in the file, and larger than the memory of a reader where they are decoded."""
    texts = [np.random.default_rng(seed).bytes(1 << 19).hex() + "x" * (1 << 20) for seed in range(3)]
    path = tmp_path / "a.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2] * 190, pa.int32()), texts)
    pq.write_table(pa.table({"text": column}), path, store_schema=False, dictionary_pagesize_limit=1 << 30)
    out = pq.ParquetFile(export(path, range(570)))
    assert out.metadata.num_row_groups > 1
    rows = (text for batch in out.iter_batches(10) for text in batch["text"].to_pylist())
    assert all(text == texts[row % 3] for row, text in enumerate(rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("name", SOUND)
@settings(deadline=None, max_examples=EXAMPLES)
@given(changes=damage, cut=st.floats(0, 1) | st.just(1.0), target=st.sampled_from(TARGETS))
def test_a_damaged_file_is_exported_or_refused_by_its_name(
    folder: Path, name: str, changes: list[tuple[float, bytes]], cut: float, target: str
) -> None:
    path = write(folder / name, SOUND[name])
    file = planned(path)
    data = bytearray(SOUND[name])
    for place, piece in changes:
        start = int(place * (len(data) - 1))
        data[start : start + len(piece)] = piece
    write(path, data[: int(cut * len(data))])
    found = path.stat()
    file = CorpusFile(file.path, file.format, file.compression, found.st_size, str(found.st_mtime_ns), name)
    kept = [1, 5, 30, 59]
    refusal = f"{path}: "
    try:
        export(file, kept, target, scores(kept)).unlink()  # type: ignore[arg-type]
    except InputError as error:
        refusal = str(error)
    assert refusal.startswith(f"{path}: ")
    assert "\n" not in refusal
    assert list((folder / "out").iterdir()) == []


# -- the reader process
def slow_file(folder: Path) -> tuple[Path, list[bytes]]:
    """A file whose export takes seconds, and its lines."""
    text = np.random.default_rng(0).bytes(4_000).hex()
    lines = [json.dumps({"text": f"{text[row:]}{row}"}).encode() + b"\n" for row in range(1_500)]
    return write(folder / "a.jsonl.bz2", bz2.compress(b"".join(lines))), lines


def test_a_killed_reader_is_replaced(tmp_path: Path) -> None:
    path, lines = slow_file(tmp_path)
    export(path, [0])
    killed: list[int] = []

    def kill() -> None:
        if not killed:
            killed.extend(readers())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    out = export(path, range(1_500), waiting=kill)
    assert killed
    assert bz2.decompress(out.read_bytes()) == b"".join(lines)


def readers() -> list[int]:
    """The process ids of this process' readers of exports."""
    mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in mine if exports._PROGRAM in Path(f"/proc/{pid}/cmdline").read_text()]


def test_waiting_may_end_an_export_of_which_nothing_remains(tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def cancel() -> None:
        raise Cancelled

    sandbox.close_idle()
    with pytest.raises(Cancelled):
        export(slow_file(tmp_path)[0], range(1_500), waiting=cancel)
    assert list((tmp_path / "out").iterdir()) == []
    assert readers() == []


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("DATA, bytes(DATA_BYTES_MAX + 1)", "send a message that is too large"),
        ("KEPT, LENGTH.pack(1)", "send an invalid message .the number of a piece that is not there"),
        ("KEPT, LENGTH.pack(2**63)", "send an invalid message .the number of a piece that is not there"),
        ("KEPT, b''", "send an invalid message .no number of a piece"),
        ("b'?', b''", "send an invalid message .a message of kind"),
    ],
)
def test_a_reader_that_is_out_of_control_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, said: str
) -> None:
    (tmp_path / "rogue.py").write_text(f"""
from pruner.corpus.protocol import LENGTH
from pruner.corpus.sandbox_main import serve
from pruner.export.protocol import DATA, DATA_BYTES_MAX, KEPT

def main():
    serve(lambda content, out: (out.send(DATA, b"some"), out.send({message})))
""")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(exports, "_PROGRAM", "rogue")
    path = write(tmp_path / "a.jsonl", jsonl(ROWS))
    with pytest.raises(InputError, match=rf"^{path}: makes the reader {said}"):
        export(path, [1])
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_to_an_object_store_appears_when_it_is_complete(tmp_path: Path, s3_url: str) -> None:
    path, storage, kept = write(tmp_path / "a.jsonl", jsonl(ROWS)), Storage(s3_url), [1, 2, 50]
    made = export_file(planned(path), kept_rows(kept), "jsonl.gz", storage, "x/a.jsonl.gz", "text")
    assert gzip.decompress(storage.read_bytes("x/a.jsonl.gz")) == jsonl([ROWS[row] for row in kept])
    assert storage.size("x/a.jsonl.gz") == made.bytes
    joined = join_parts(storage, [made, made], storage, "x/joined.jsonl.gz")
    assert joined.rows == 6
    assert gzip.decompress(storage.read_bytes("x/joined.jsonl.gz")) == 2 * jsonl([ROWS[row] for row in kept])

"""How tests export a file, and read what was written without Winnow's code."""

import bz2
import gzip
import hashlib
import io
import lzma
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pruner.corpus.files import CorpusFile
from pruner.corpus.plan import make_plan
from pruner.corpus.protocol import LENGTH
from pruner.export.encode import encode
from pruner.export.export_file import export_file
from pruner.export.formats import RowFormat
from pruner.export.kept_rows import KeptRows
from pruner.export.protocol import WHOLE, ExportRequest, decode_piece, encode_piece
from pruner.spec import CorpusSpec
from pruner.tables.storage import Storage

TARGETS: tuple[RowFormat, ...] = ("same", "parquet", "jsonl", "jsonl.gz", "jsonl.zst")
Columns = Mapping[str, pa.Array]


def unzstd(data: bytes) -> bytes:
    with pa.CompressedInputStream(io.BytesIO(data), "zstd") as stream:
        return bytes(stream.read())


DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".zst": unzstd,
    ".zstd": unzstd,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
}


def planned(path: Path) -> CorpusFile:
    (file,) = make_plan(CorpusSpec(paths=[str(path)])).files
    return file


def kept_rows(rows: Sequence[int], columns: Columns | None = None) -> pa.Table:
    return pa.table({"row": pa.array(rows, pa.int64()), **(columns or {})})


def scores(rows: Sequence[int]) -> dict[str, pa.Array]:
    """The columns that `scores` adds, and one of a further scorer that lacks some values."""
    return {
        "winnow_nll": pa.array([row / 3 for row in rows], pa.float64()),
        "winnow_n_tokens": pa.array(list(rows), pa.int64()),
        "winnow_percentile": pa.array([None if row % 3 == 0 else row / 7 for row in rows], pa.float64()),
        "edu": pa.array([row / 2 for row in rows], pa.float32()),
    }


def export(
    path: Path | CorpusFile,
    rows: Sequence[int],
    target: RowFormat = "same",
    columns: Columns | None = None,
    text_field: str = "text",
    **options: Any,
) -> Path:
    """Exports a file; returns the path of the export, which is what its record says."""
    file = planned(path) if isinstance(path, Path) else path
    folder = Path(file.path.path).parent / "out"
    made = export_file(file, kept_rows(rows, columns), target, Storage(str(folder)), "export", text_field, **options)
    data = (folder / "export").read_bytes()
    assert (made.path, made.rows, made.bytes) == ("export", len(rows), len(data))
    assert made.sha256 == hashlib.sha256(data).hexdigest()
    assert [found.name for found in folder.iterdir()] == ["export"]
    return folder / "export"


def encoded(
    path: Path,
    rows: Sequence[int],
    target: RowFormat = "same",
    columns: Columns | None = None,
    careful: bool = False,
) -> bytes:
    """What the reader process writes, made in this process, where a test may change constants."""
    kept, file = kept_rows(rows, columns), planned(path)
    request = ExportRequest(
        file=file,
        target=target,
        text_field="text",
        lines=WHOLE,
        rows=len(rows),
        roots=None,
        careful=careful,
    )

    def piece(number: int) -> pa.RecordBatch:
        return decode_piece(encode_piece(kept, memoryview(LENGTH.pack(number))))

    out = io.BytesIO()
    with file.open() as source:
        encode(request, source, lambda: KeptRows(piece, len(rows), file.url), _Open(out))
    return out.getvalue()


class _Open(io.RawIOBase):
    """Writes to a buffer that stays open."""

    def __init__(self, out: io.BytesIO) -> None:
        self._out = out

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._out.write(data)

    def tell(self) -> int:
        return self._out.tell()

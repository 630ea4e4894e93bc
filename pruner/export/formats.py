"""The formats of exports, and the names of exported files."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from pydantic import BaseModel

from pruner.corpus.files import CorpusFile
from pruner.corpus.names import CODECS, FORMATS, Codec, Format
from pruner.errors import InputError

RowFormat = Literal["same", "parquet", "jsonl", "jsonl.gz", "jsonl.zst"]  # of the rows of a corpus
ExportFormat = Literal[RowFormat, "dolma"]

_CONVERTED: dict[RowFormat, tuple[Format, Codec | None]] = {
    "parquet": ("parquet", None),
    "jsonl": ("jsonl", None),
    "jsonl.gz": ("jsonl", "gzip"),
    "jsonl.zst": ("jsonl", "zstd"),
}


class ExportedFile(BaseModel):
    """A file that was exported, or a part of it that a shard has."""

    path: str  # in its storage
    rows: int
    sha256: str  # 64 hex digits
    bytes: int


def written_as(file: CorpusFile, target: RowFormat) -> tuple[Format, Codec | None]:
    """Format and codec of a file's export."""
    return (file.format, file.compression) if target == "same" else _CONVERTED[target]


def subfolder(target: ExportFormat, selection: str) -> str:
    """Where the root of an export lies below the folder to write to: `` or a path with a `/` at its end."""
    return f"attributes/{selection}/" if target == "dolma" else ""


def export_root(out: str, target: ExportFormat, selection: str) -> str:
    """The root of an export to the folder or URL `out`."""
    below = subfolder(target, selection)
    return f"{out.rstrip('/')}/{below}" if below else out


def may_be_cut(file: CorpusFile, target: RowFormat) -> bool:
    """Whether shards of a file may be exported one by one and joined: JSON lines that stay JSON lines."""
    return file.format == written_as(file, target)[0] == "jsonl"


def output_names(files: Sequence[CorpusFile], target: RowFormat) -> list[str]:
    """The relative path of each file's export: that of the file, with the suffix of a conversion.

    `files` are all files of a corpus with a kept document. Raises InputError naming two files whose exports cannot
    stand side by side.
    """
    names = [_name(file, target) for file in files]
    owners: dict[str, CorpusFile] = {}
    for name, file in zip(names, files, strict=True):
        other = owners.setdefault(name, file)
        if other is not file:
            raise InputError(
                f"{other.url} and {file.url}: both would be exported as {name}; export with the format `same`, or"
                " exclude one of them"
            )
    for name, file in zip(names, files, strict=True):
        for folder in accumulate(name.split("/")[:-1], lambda above, part: f"{above}/{part}"):
            if folder in owners:
                raise InputError(
                    f"{owners[folder].url} and {file.url}: would be exported as {folder} and {name}, but no file is"
                    " also a folder; export with the format `same`, or exclude one of them"
                )
    return names


def _name(file: CorpusFile, target: RowFormat) -> str:
    name = file.relative or file.path.path.rpartition("/")[2]
    if target == "same":
        return name
    return f"{_without(_without(name, CODECS), FORMATS)}.{target}"


def _without(name: str, suffixes: dict[str, Codec] | dict[str, Format]) -> str:
    """The name without the last suffix if it is one of `suffixes`."""
    stem, dot, last = name.rpartition(".")
    return stem if dot + last.lower() in suffixes and not stem.endswith("/") and stem else name

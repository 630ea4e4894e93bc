"""The files of a large table: one Parquet file, or above ONE_FILE_ROWS rows a folder of parts."""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pruner.tables.hashing_writer import HashingWriter, WrittenFile
from pruner.tables.join_parquet import ParquetJoiner
from pruner.tables.storage import Storage

ONE_FILE_ROWS = 10**8  # a table with more is a folder
PART_FILE_ROWS = 10**7  # of each part of a folder at least, but of the last one
_PART = re.compile(r"part-\d{5,}\.parquet")


def is_folder(rows: int) -> bool:
    """Whether a table of so many rows is a folder of parts."""
    return rows > ONE_FILE_ROWS


def part_name(number: int) -> str:
    """The name of a part in its folder."""
    return f"part-{number:05}.parquet"


def is_part(name: str) -> bool:
    """Whether a name in a folder is that of a part."""
    return _PART.fullmatch(name) is not None


def table_files(storage: Storage, path: str) -> list[str]:
    """The paths of a table's files: `path` itself, or its parts in their order."""
    parts = sorted(filter(is_part, storage.list(path)), key=lambda name: (len(name), name))
    return [f"{path}/{name}" for name in parts] or [path]


def parts_of(files: dict[str, WrittenFile], path: str) -> dict[str, WrittenFile]:
    """Of files by path, the parts of the table at `path` by their names, in their order; none of a single file."""
    names = {name.removeprefix(f"{path}/"): about for name, about in files.items() if name.startswith(f"{path}/")}
    return {part_name(number): names[part_name(number)] for number in range(len(names))}


def join_files(
    storage: Storage, folder: str, name: str, rows: int, sources: Sequence[str], beat: Callable[[], None]
) -> dict[str, WrittenFile]:
    """Joins Parquet files of one schema, with `rows` rows in all, into the table `name` in a folder.

    Returns its files by their paths below the folder. Calls `beat` for each copied piece. Raises FileNotFoundError.
    """
    written: dict[str, WrittenFile] = {}
    left = list(sources)
    while left:
        file = f"{name}/{part_name(len(written))}" if is_folder(rows) else name
        with ExitStack() as stack:
            out = HashingWriter(stack.enter_context(storage.create(f"{folder}/{file}")))
            joiner, joined = ParquetJoiner(out), 0
            while left and (not is_folder(rows) or joined < PART_FILE_ROWS):
                with storage.open(left.pop(0)) as source:
                    joined += joiner.add(source, beat)
            joiner.close()
        written[file] = out.written
    return written

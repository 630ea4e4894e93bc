"""A shard: the unit of work that a corpus is cut into."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """Units [start, stop) of a file: row groups of Parquet, record batches of Arrow, bytes of the text of a text file.

    A line belongs to the byte range in which it starts. With `stop` 0 the range ends with the file. A CSV file is
    always whole. A shard of several `files` holds each of them whole; its `start` and `stop` are 0.
    """

    index: int
    file: int  # index into the plan's files, of the first file
    files: int  # consecutive files of the plan
    start: int
    stop: int
    rows: int | None  # None where no footer tells it
    text_bytes: int  # estimate
    digest: str  # identifies the documents: a hash of the files as planned, the part of them, and the fields to read

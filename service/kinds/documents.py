"""Kind `documents`: row, id, domain, bytes and reject of every document, once a corpus, a part for each shard.

Scoring a shard writes its part on the way, as it reads the same rows; this kind makes the parts that are missing then.
Whichever reads a shard also writes the fields that score.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType

import pyarrow as pa

from pruner.corpus.numbers import field_numbers
from pruner.corpus.sandbox import read_shard
from pruner.tables.documents import DocumentCounts, DocumentsWriter
from pruner.tables.part_file import read_metadata
from pruner.tables.storage import Storage
from pruner.tables.values import ValuesWriter
from service.kinds import field, passes
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, Node, ShardPaths, Task
from service.store.workspace import digest

VERSION = 2


def paths(job: JobFiles) -> ShardPaths:
    """The parts."""
    return ShardPaths(f"documents/{digest('documents', VERSION)}", job)


def nodes(job: JobFiles) -> Iterator[Node]:
    """The documents of a planned job."""
    if job.named:
        name = passes.DOCUMENTS
        yield Node(name, "light", "scoring", paths(job), needs=("corpus", *passes.before(job, name)))


def counters(storage: Storage, path: str) -> dict[str, int]:
    """What a part that is there holds."""
    found = read_metadata(storage, path, DocumentCounts)
    return {"documents": found.documents, "rejects": found.rejects}


def run(task: Task) -> Counts:
    """Reads a shard, unless its part is there. Raises InputError."""
    fresh = not task.storage.exists(task.path)
    if fresh:
        with ShardTables(task) as tables:
            for batch in tables.read(task.beat):
                task.beat()
                tables.append(batch)
    return Counts(counters(task.storage, task.path), fresh)


class ShardTables:
    """Reads a shard and writes its missing tables, which appear when the `with` block ends without an exception."""

    def __init__(self, task: Task) -> None:
        """Raises FileNotFoundError where the job's plan is not there any more."""
        self._task, self._stack = task, ExitStack()
        job, plan = task.job, task.job.plan
        self._plan, self._shard = plan, plan.shards[task.part]
        self._documents_path = paths(job)[task.part]
        wanted = dict.fromkeys(field.fields(job).values())
        self._fields = [name for name in wanted if not task.storage.exists(field.paths(job, name)[task.part])]
        self._documents: DocumentsWriter | None = None
        self._numbers: dict[str, ValuesWriter] = {}
        self._ended = False

    def read(self, waiting: Callable[[], None]) -> Iterator[pa.RecordBatch]:
        """The rows of the shard with the fields that are missing. `waiting` as of `read_shard`."""
        record = self._task.job.record
        corpus, roots = record.request.corpus, record.access.roots
        return read_shard(self._plan, self._shard, corpus, roots, waiting, columns=tuple(self._fields))

    def read_texts(self) -> Iterator[tuple[list[str], pa.RecordBatch]]:
        """The texts of each batch of rows, and the batch without them, which waits for what a model says of them.

        For a thread of its own: raises InterruptedError after `end_reading`.
        """

        def end_if_told() -> None:
            if self._ended:
                raise InterruptedError

        for batch in self.read(end_if_told):
            yield batch.column("text").drop_null().to_pylist(), batch.drop_columns(["text"])

    def end_reading(self) -> None:
        """Ends `read_texts`."""
        self._ended = True

    def __enter__(self) -> "ShardTables":
        task = self._task
        if not task.storage.exists(self._documents_path):
            self._documents = self._stack.enter_context(DocumentsWriter(task.storage, self._documents_path))
        for name in self._fields:
            self._numbers[name] = self._stack.enter_context(field.writer(task, name))
        return self

    def append(self, batch: pa.RecordBatch) -> None:
        """Adds rows as `read` gives them; their text is not needed."""
        if self._documents is not None:
            self._documents.append(batch)
        for name, numbers in self._numbers.items():
            numbers.append(field_numbers(batch, name, self._plan.files_of(self._shard)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

"""Reads tasks in a reader process with a memory limit (see pruner.corpus.sandbox); other rooms call this module."""

from collections.abc import Callable

from pydantic import BaseModel, TypeAdapter, ValidationError

from pruner.ablation.tasks import TaskItem
from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.corpus.protocol import ReaderFailed, invalid
from pruner.corpus.sandbox import open_reader
from pruner.errors import InputError

TASK = b"T"  # the message with a task, an `AnsweredTask` as JSON
AnsweredTask = TypeAdapter(tuple[str, list[TaskItem]])
_PROGRAM = "pruner.ablation.task_reader_main"
_BYTES_MAX = 256 << 20  # of the messages with tasks


class TasksRequest(BaseModel):
    """Where the reader finds the tasks."""

    place: str
    roots: tuple[str, ...] | None


def read_tasks(
    place: str, roots: Roots = UNRESTRICTED, waiting: Callable[[], None] = lambda: None
) -> dict[str, list[TaskItem]]:
    """The tasks of a place as `pruner.ablation.tasks.read_tasks` gives them, by name.

    `waiting` is called at least every 0.5 s, and may raise to end the reading. Raises InputError where there are no
    tasks, a file has no known layout or takes too much memory, and OSError.
    """
    for fresh in (False, True):
        try:
            return _read(place, roots, waiting, fresh)
        except ReaderFailed as failed:
            if fresh:
                raise InputError(f"{failed.file or place}: {failed}; leave the file out") from None
    raise AssertionError("unreachable: the second attempt returns or raises")


def _read(place: str, roots: Roots, waiting: Callable[[], None], fresh: bool) -> dict[str, list[TaskItem]]:
    found: dict[str, list[TaskItem]] = {}
    size = 0
    with open_reader(_PROGRAM, fresh=fresh) as reader:
        for kind, content in reader.messages(TasksRequest(place=place, roots=roots.given), waiting, _BYTES_MAX):
            if kind != TASK:
                continue
            size += len(content)
            if size > _BYTES_MAX:
                raise InputError(f"{place}: the questions have over {_BYTES_MAX >> 20} MiB of text, too much for tasks")
            try:
                name, items = AnsweredTask.validate_json(bytes(content))
            except ValidationError as error:
                raise invalid(error) from None
            if name in found:
                raise InputError(f"{place}: there are two tasks of the name {name}: rename a file")
            found[name] = items
    if not found:
        raise InputError(f"{place}: has no tasks: files of JSON lines, such as requests.jsonl.gz or arc_easy.jsonl")
    return found

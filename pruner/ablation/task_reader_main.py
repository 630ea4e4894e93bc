"""Main program of the reader process of tasks. See pruner.ablation.task_reader."""

import orjson

from pruner.ablation.task_reader import TASK, AnsweredTask, TasksRequest
from pruner.ablation.tasks import read_tasks
from pruner.corpus.paths import Roots
from pruner.corpus.protocol import FILE
from pruner.corpus.sandbox_main import Output, serve


def main() -> None:
    """Answers requests for tasks from standard input until it ends."""
    serve(_answer)


def _answer(content: bytes, out: Output) -> None:
    request = TasksRequest.model_validate_json(content)

    def on_file(path: str) -> None:
        out.send(FILE, orjson.dumps(path))

    for name, items in read_tasks(request.place, Roots(request.roots), on_file, out.alive):
        out.send(TASK, AnsweredTask.dump_json((name, items)))

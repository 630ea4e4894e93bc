"""The files that the commands without a server write. They replace no file of the user.

The output may lie in the corpus. Only files that the command writes or has written are no part of the corpus.
"""

import filecmp
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pruner.errors import InputError
from pruner.select.score_table import SCORES
from pruner.tables.storage import Storage
from pruner.tables.table_files import is_part, table_files
from scorer.training.names import FILES
from scorer.training.summary import TrainingSummary
from service.contract.schemas import JobRequest

WORK = ".winnow"  # the folder of the workspace in the output of `prune`
SCORES_FILE, REJECTS_FILE, REPORT_FILE = "scores/scores.parquet", "rejects.parquet", "report.json"
_SCORES, _REFERENCE = "scores", "reference"


def manifest_file(selection_id: str) -> str:
    """The manifest of a selection, below the folder of the results."""
    return f"manifest-{selection_id}.parquet"


def reference_file(name: str) -> str:
    """A file of the trained reference, below the folder of the results."""
    return f"{_REFERENCE}/{name}"


def is_result(out: Path, name: str) -> bool:
    """Whether a file or a folder of parts in `out` is a result of `prune`: the same as one of the workspace there."""
    folder, _, file = name.rpartition("/")
    if folder == _REFERENCE:
        made = f"model/*/*/{file}"
    elif file == REPORT_FILE:
        made = f"report/*/{file}"
    elif folder == _SCORES and is_part(file):
        made = f"index/*/scores.parquet/{file}"
    else:
        made = "selection/*/manifest.parquet" if file.startswith("manifest-") else f"index/*/{file}"
    return any(is_same(out / name, kept) for kept in (out / WORK).glob(made))


def is_same(one: Path, two: Path) -> bool:
    """Whether two files, or two folders of files, are there and hold the same."""
    if one.is_dir() and two.is_dir():
        names = sorted(os.listdir(one))  # noqa: PTH208
        parts = sorted(name for name in os.listdir(two) if is_part(name))  # noqa: PTH208
        return names == parts and all(is_same(one / name, two / name) for name in names)
    return one.is_file() and two.is_file() and filecmp.cmp(one, two, shallow=False)


def put_table(storage: Storage, path: str, out: Path, name: str) -> None:
    """Copies a table of the workspace into the results, in place of one that is there. It appears complete."""
    files = table_files(storage, path)
    if files == [path]:
        remove(out / name, folders_only=True)
        storage.copy(path, Storage(str(out)), name)
        return
    beside = out / f".{name}.part"  # one run at a time works in a folder of results
    remove(beside)
    for file in files:
        storage.copy(file, Storage(str(beside)), file.rpartition("/")[2])
    remove(out / name)
    beside.rename(out / name)


def put_scores(storage: Storage, path: str, out: Path) -> None:
    """Copies the table of scores into the folder of scores, a file for each part, in place of those that are there."""
    files = {f"{_SCORES}/{file.rpartition('/')[2]}": file for file in table_files(storage, path)}
    for name in scores_files(out):
        if name not in files and is_result(out, name):
            (out / name).unlink()
    for name, file in files.items():
        storage.copy(file, Storage(str(out)), name)


def scores_files(out: Path) -> list[str]:
    """The files of the table of scores in the results, or those of the user that have their names."""
    parts = [f"{_SCORES}/{path.name}" for path in (out / _SCORES).glob("part-*.parquet") if is_part(path.name)]
    return sorted([*parts, *([SCORES_FILE] if (out / SCORES_FILE).exists() else [])])


def has_scores(out: Path, storage: Storage, path: str) -> bool:
    """Whether the table of scores in the results is that of a workspace on the local disk."""
    there = {name.rpartition("/")[2]: out / name for name in scores_files(out)}
    made = {file.rpartition("/")[2]: storage.local(file) for file in table_files(storage, path)}
    return there.keys() == made.keys() and all(
        kept is not None and is_same(there[name], kept) for name, kept in made.items()
    )


def remove(path: Path, *, folders_only: bool = False) -> None:
    """Removes a file or folder if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif not folders_only:
        path.unlink(missing_ok=True)


def of_prune(request: JobRequest, out: Path) -> list[str]:
    """What `prune` writes or has written into `out`: real paths, those of folders with a `/` at the end.

    Raises InputError for a file of the user's in its way.
    """
    to_write = [SCORES_FILE, REJECTS_FILE, REPORT_FILE, *(manifest_file(spec.id) for spec in request.selections)]
    if request.train is not None:
        to_write += map(reference_file, FILES)
    to_write += [name for name in scores_files(out) if name != SCORES_FILE]
    there = [path.name for path in out.glob("manifest-*.parquet")] + [reference_file(name) for name in FILES]
    written = [name for name in {*to_write, *there} if is_result(out, name)]
    _refuse(out / name for name in to_write if name not in written)
    folders = [f"{name}/" for name in written if (out / name).is_dir()]
    return _real(out, [f"{WORK}/", *sorted({*to_write, *written, *folders})])


def of_score(out: Path, work: Path) -> list[str]:
    """What `score` writes, as `of_prune`. An earlier table of scores may be replaced."""
    try:
        first = min(out.iterdir(), default=out) if out.is_dir() else out
        earlier = set(SCORES.names) <= set(pq.read_schema(first).names)
    except (OSError, pa.ArrowException):
        earlier = False
    if not earlier:
        _refuse([out])
    return _real(out.parent, [out.name, *([f"{out.name}/"] if out.is_dir() else []), f"{work.name}/"])


def of_train(out: Path, work: Path) -> list[str]:
    """What `train` writes, as `of_prune`. An earlier trained reference may be replaced."""
    try:
        TrainingSummary.model_validate_json((out / "training.json").read_bytes())
    except (OSError, ValidationError):
        if not work.exists():  # else a killed run may have left files
            _refuse(out / name for name in FILES)
    return [*_real(out, FILES), *_real(work.parent, [f"{work.name}/"])]


def _real(folder: Path, names: Iterable[str]) -> list[str]:
    return [f"{os.path.realpath(folder)}/{name}" for name in names]


def _refuse(paths: Iterable[Path]) -> None:
    """Raises InputError for a path where there is something, or that lies below a file."""
    for path in paths:
        for there in (path, path.parent):
            if os.path.lexists(there) and (there == path or not there.is_dir()):
                raise InputError(
                    f"{there}: the command would write here, and this is not its earlier result: move it away, or "
                    "choose another --out"
                )

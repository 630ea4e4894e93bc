"""What the commands without a server write: which files, and that none of the user's is among them.

The output may lie in the corpus. Only files that the command writes or has written are no part of the corpus.
"""

import filecmp
import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pruner.errors import InputError
from pruner.select.score_table import SCORES
from scorer.training.names import FILES
from scorer.training.summary import TrainingSummary
from service.contract.schemas import JobRequest

WORK = ".winnow"  # the folder of the workspace in the output of `prune`
SCORES_FILE, REJECTS_FILE, REPORT_FILE = "scores/scores.parquet", "rejects.parquet", "report.json"
_REFERENCE = "reference"


def manifest_file(selection_id: str) -> str:
    """The manifest of a selection, below the folder of the results."""
    return f"manifest-{selection_id}.parquet"


def reference_file(name: str) -> str:
    """A file of the trained reference, below the folder of the results."""
    return f"{_REFERENCE}/{name}"


def is_result(out: Path, name: str) -> bool:
    """Whether a file in `out` is a result of `prune`: the same as a file of the workspace there."""
    folder, _, file = name.rpartition("/")
    if folder == _REFERENCE:
        made = f"model/*/*/{file}"
    elif file == REPORT_FILE:
        made = f"report/*/{file}"
    else:
        made = "selection/*/manifest.parquet" if file.startswith("manifest-") else f"index/*/{file}"
    path = out / name
    return path.is_file() and any(filecmp.cmp(path, kept, shallow=False) for kept in (out / WORK).glob(made))


def of_prune(request: JobRequest, out: Path) -> list[str]:
    """What `prune` writes or has written into `out`: real paths, those of folders with a `/` at the end.

    Raises InputError for a file of the user's in its way.
    """
    to_write = [SCORES_FILE, REJECTS_FILE, REPORT_FILE, *(manifest_file(spec.id) for spec in request.selections)]
    if request.train is not None:
        to_write += map(reference_file, FILES)
    there = [path.name for path in out.glob("manifest-*.parquet")] + [reference_file(name) for name in FILES]
    written = [name for name in {*to_write, *there} if is_result(out, name)]
    _refuse(out / name for name in to_write if name not in written)
    return _real(out, [f"{WORK}/", *sorted({*to_write, *written})])


def of_score(out: Path, work: Path) -> list[str]:
    """What `score` writes, as `of_prune`. An earlier table of scores may be replaced."""
    try:
        earlier = set(SCORES.names) <= set(pq.read_schema(out).names)
    except (OSError, pa.ArrowException):
        earlier = False
    if not earlier:
        _refuse([out])
    return _real(out.parent, [out.name, f"{work.name}/"])


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

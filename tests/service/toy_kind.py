"""A kind of artefact that only tests know: three parts, each written in two halves with a wait between them."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from service.kinds import KINDS
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, Node, Task
from service.run import worker_process

FOLDER = "TOY_FOLDER"  # the variable of workers
PARTS = 3
HALF = b"half of a part\n"


def nodes(job: JobFiles) -> Iterator[Node]:
    if job.corpus is not None:
        paths = [f"toy/{job.corpus.digest}/{part}" for part in range(PARTS)]
        yield Node("toy", "gpu", "scoring", paths, needs=("corpus",))


def run(task: Task) -> Counts:
    """Writes half of the part, and the other half when there is a file `go` in the folder that FOLDER names."""
    folder = Path(os.environ[FOLDER])
    with task.storage.create(task.path) as file:
        file.write(HALF)
        file.flush()
        (folder / f"half-{task.part}").touch()
        while not (folder / "go").exists():
            task.beat()
            time.sleep(0.01)
        file.write(HALF)
    return Counts({"things": 2}, fresh=True)


def main(name: str) -> None:
    """A worker that knows the kind."""
    KINDS["toy"] = __import__(__name__, fromlist=["run"])
    worker_process.main(name)


def waiting(folder: Path) -> list[int]:
    """The parts of which half was written at some time."""
    return sorted(int(path.name.partition("-")[2]) for path in folder.glob("half-*"))

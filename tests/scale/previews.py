"""`make scale-previews`: previews of a job of 10^8 documents over HTTP: time of each, and memory of the API.

A small job runs in full; then the arrays that previews read are replaced by synthetic ones, 45 bytes a document on
disk: orders share files with each other and with the index where they may be equal. The first preview of each sort
finds nothing of them in the disk's cache, and each has another rate. `python -m tests.scale.previews 1e9` measures
another number. Status 1 if a target is missed.
"""

import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import numpy as np

from pruner.ranks.scratch import ScratchArray
from pruner.select.domain_marks import STEP, column_count, write_marks
from pruner.select.index_files import array_path, read_array, write_array
from pruner.select.key_limits import block_limits
from pruner.select.sampled_sums import sample
from pruner.tables.storage import Storage
from service.contract.schemas import JobRequest
from service.work.local import prune
from tests.scale.figures import Figure, percentile, show
from tests.scale.processes import resident_mib
from tests.service.pool import train_a_step, write_corpus
from tests.service.serving import Service

DOMAINS = 1_000
PIECE = 1 << 22
SHARED = (
    "ranks.json",
    *(f"{name}.npy" for name in ("below", "domain", "marks", "inside_below", "inside_bounds", "inside_samples")),
)
OF_ORDER = ("key.npy", "limits.npy", "inside_key.npy", "inside_limits.npy")
MEMORY_MIB, PREVIEW_MS = 300.0, 100.0
REPEATS = 5
PREVIEWS: dict[str, dict[str, Any]] = {
    "by documents": {"rate": 0.3},
    "by tokens": {"rate": 0.3, "unit": "tokens"},
    "per byte": {"rate": 0.4, "per": "byte"},
    "at random": {"rate": 0.1, "criterion": "random"},
    "within domains": {"rate": 0.3, "within": "domain"},
    "within domains, per byte": {"rate": 0.3, "within": "domain", "per": "byte"},
    "within domains, by tokens": {"rate": 0.3, "within": "domain", "unit": "tokens"},
}


def write_ranks(storage: Storage, folder: str, documents: int) -> None:
    """Replaces the arrays of an index that previews read: keys ascend with the ranks, and inside each domain."""
    draw, sizes = np.random.default_rng(0), np.zeros(DOMAINS, np.int64)
    with _NewArrays(storage, folder, documents) as new:
        for start in range(0, documents, PIECE):
            size = min(PIECE, documents - start)
            domain = draw.integers(0, DOMAINS, size, np.int32)
            sizes += np.bincount(domain, minlength=DOMAINS)
            new.append(domain=domain, key=1 + 7 * np.arange(start, start + size) / documents)
            new.append_sums("below", draw.integers(100, 2_000, size))
        for size, shift in zip(sizes.tolist(), draw.normal(0, 0.3, DOMAINS).tolist(), strict=True):
            new.append(inside_key=2 + shift + 5 * np.arange(size) / size)
            new.append_sums("inside_below", draw.integers(100, 2_000, size))
    below, domain, inside_below = (read_array(storage, folder, name) for name in ("below", "domain", "inside_below"))
    with closing(ScratchArray(Path(storage.url), np.int64)) as marks:
        write_marks(marks, domain, below, sizes)
        write_array(storage, folder, "marks", marks.mapped(), lambda: None)
    write_array(storage, folder, "inside_bounds", np.concatenate([[0], np.cumsum(sizes)]), lambda: None)
    write_array(storage, folder, "inside_samples", sample(inside_below), lambda: None)
    _write_limits(storage, folder, ("key", "limits"), ("inside_key", "inside_limits"))
    names = [f"domain-{number}" for number in range(DOMAINS)]
    record = storage.read_json(f"{folder}/ranks/ranks.json")
    storage.write_json(
        f"{folder}/ranks/ranks.json", record | {"step": STEP, "columns": column_count(DOMAINS), "domains": names}
    )


def write_order(storage: Storage, folder: str, index: str, documents: int) -> None:
    """Replaces the arrays of an order: its keys are in no order. All else has the same files as those of an index."""
    draw = np.random.default_rng(1)
    with _NewArrays(storage, folder, documents) as new:
        for start in range(0, documents, PIECE):
            new.append(key=draw.uniform(1, 8, min(PIECE, documents - start)))
    _write_limits(storage, folder, ("key", "limits"))
    for name in SHARED:
        _share(storage, f"{index}/ranks/{name}", f"{folder}/ranks/{name}")
    for name in ("key", "limits"):
        _share(storage, f"{folder}/ranks/{name}.npy", f"{folder}/ranks/inside_{name}.npy")


class _NewArrays:
    """Arrays that take the place of those of an index, written once, piece by piece."""

    def __init__(self, storage: Storage, folder: str, documents: int) -> None:
        self._path, self._documents = lambda name: Path(storage.url, array_path(folder, name)), documents
        self._files: dict[str, BinaryIO] = {}
        self._sums: dict[str, int] = {}

    def append(self, **pieces: np.ndarray) -> None:
        """Adds values to the arrays of these names."""
        for name, piece in pieces.items():
            if name not in self._files:
                self._path(name).unlink()
                self._files[name] = self._path(name).open("wb")
                header = np.lib.format.header_data_from_array_1_0(piece)
                header["shape"] = (self._documents + (name in self._sums),)
                np.lib.format.write_array_header_1_0(self._files[name], header)
            piece.tofile(self._files[name])

    def append_sums(self, name: str, tokens: np.ndarray) -> None:
        """Adds the tokens below each next document to an array that begins with 0."""
        if name not in self._sums:
            self._sums[name] = 0
            self.append(**{name: np.zeros(1, np.int64)})
        sums = self._sums[name] + np.cumsum(tokens)
        self._sums[name] = int(sums[-1])
        self.append(**{name: sums})

    def __enter__(self) -> "_NewArrays":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()


def _write_limits(storage: Storage, folder: str, *names: tuple[str, str]) -> None:
    for key, limits in names:
        write_array(storage, folder, limits, block_limits(read_array(storage, folder, key)), lambda: None)


def _share(storage: Storage, of: str, path: str) -> None:
    """Makes a file another name of one."""
    Path(storage.url, path).unlink()
    Path(storage.url, path).hardlink_to(Path(storage.url, of))


def leave_cache(workspace: Path) -> None:
    """Takes all arrays out of the disk's cache."""
    for path in workspace.glob("*/*/ranks/*.npy"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder: Path, documents: int) -> list[Figure]:
    """All figures."""
    request = JobRequest.model_validate(
        {
            "corpus": {"paths": [str(write_corpus(folder / "corpus"))], "domain_field": "domain"},
            "reference": {"model": str(train_a_step(folder))},
            "selections": [{"criterion": "medium"}, {"criterion": "low", "per": "byte"}, {"criterion": "random"}],
        }
    )
    job = prune(request, folder / "out", "cpu", lambda *_: None)
    workspace = folder / "out" / ".winnow"
    storage = Storage(str(workspace))
    (index,) = (f"index/{key}" for key in storage.list("index"))
    write_ranks(storage, index, documents)
    orders = [f"order/{key}" for key in storage.list("order")]
    write_order(storage, orders[0], index, documents)
    for order in orders[1:]:
        for name in (*SHARED, *OF_ORDER):
            _share(storage, f"{orders[0]}/ranks/{name}", f"{order}/ranks/{name}")
    service = Service(workspace, folder / "serve.log", workers=0)
    try:
        service.ready()
        figures = []
        with httpx.Client(base_url=service.url, timeout=60) as client:
            assert client.get(f"/v1/jobs/{job.id}").json()["status"] == "succeeded"
            figures.append(Figure("memory of the API before", "MiB", resident_mib(service.process.pid)))
            for name, asked in PREVIEWS.items():
                times = []
                leave_cache(workspace)
                target = None if asked.get("within") and asked.get("unit") else PREVIEW_MS  # searches in each domain
                for repeat in range(REPEATS):
                    begun = time.perf_counter()
                    answer = client.get(
                        f"/v1/jobs/{job.id}/preview", params=asked | {"rate": asked["rate"] + repeat / 100}
                    )
                    times.append((time.perf_counter() - begun) * 1000)
                    assert answer.status_code == 200, answer.text
                figures.append(Figure(f"preview {name}, first", "ms", times[0]))
                figures.append(Figure(f"preview {name}, median", "ms", percentile(times, 50), target))
        figures.append(Figure("memory of the API after", "MiB", resident_mib(service.process.pid), MEMORY_MIB))
        return figures
    finally:
        service.process.terminate()
        service.process.wait()


def main() -> int:
    """Prints a table; returns the exit status."""
    documents = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**8
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        figures = measure(Path(name), documents)
    return show({f"{documents:,} documents": figures})


if __name__ == "__main__":
    sys.exit(main())

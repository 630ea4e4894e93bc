"""`make scale-previews`: previews of a job of 10^8 documents over HTTP: time of each, and memory of the API.

A small job runs in full; then the arrays of its index and orders are replaced by synthetic ones of so many documents.
`python -m tests.scale.previews 1e7` measures another number. Status 1 if a target is missed.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from pruner.ranks.scratch import ScratchArray
from pruner.select.index import Index, count_domains, read_index, write_arrays
from pruner.select.key_limits import block_limits
from pruner.tables.storage import Storage
from service.contract.schemas import JobRequest
from service.work.local import prune
from tests.scale.figures import Figure, percentile, show
from tests.scale.processes import resident_mib
from tests.service.pool import train_a_step, write_corpus
from tests.service.serving import Service

DOMAINS = 1_000
MARKS = 1_024
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


def write_ranks(storage: Storage, folder: str, documents: int, ordered: bool) -> None:
    """Replaces the arrays of an index; keys ascend with the ranks if it is `ordered`."""
    draw, scratch = np.random.default_rng(0), Path(storage.url)
    names = ("below", "key", "domain", "place", "inside_key", "inside_place", "inside_below")
    kinds = (np.int64, np.float64, np.int32, np.int64, np.float64, np.int64, np.int64)
    arrays = {name: ScratchArray(scratch, kind) for name, kind in zip(names, kinds, strict=True)}
    step = -(-documents // MARKS)
    marks, open_, tokens = [np.zeros((DOMAINS, 2), np.int64)], np.zeros((DOMAINS, 2), np.int64), 0
    for name in ("below", "inside_below"):
        arrays[name].append(np.zeros(1, np.int64))
    for start in range(0, documents, step):
        ranks = np.arange(start, min(start + step, documents))
        n_tokens, domain = draw.integers(100, 2_000, len(ranks)), draw.integers(0, DOMAINS, len(ranks))
        key = 1 + 7 * ranks / documents if ordered else draw.uniform(1, 8, len(ranks))
        below = tokens + np.cumsum(n_tokens)
        tokens = int(below[-1])
        open_ += count_domains(domain, n_tokens, DOMAINS)
        marks.append(open_.copy())
        for name, values in (
            ("key", key),
            ("inside_key", key),
            ("domain", domain),
            ("place", ranks),
            ("inside_place", ranks),
        ):
            arrays[name].append(values)
        arrays["below"].append(below)
        arrays["inside_below"].append(below)
    sizes = open_[:, 0]
    mapped = {name: array.mapped() for name, array in arrays.items()}
    known = read_index(storage, folder)
    index = Index(
        **mapped,
        marks=np.stack(marks),
        inside_bounds=np.concatenate([[0], np.cumsum(sizes)]),
        shards=known.shards,
        limits=block_limits(mapped["key"]),
        inside_limits=block_limits(mapped["inside_key"]),
        step=step,
        domain_names=[f"domain-{number}" for number in range(DOMAINS)],
        rank=np.zeros(0, np.int64),
        inside_rank=np.zeros(0, np.int64),
    )
    write_arrays(storage, folder, index, lambda: None)


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
    for kind in ("index", "order"):
        for key in storage.list(kind):
            write_ranks(storage, f"{kind}/{key}", documents, ordered=kind == "index")
    service = Service(workspace, folder / "serve.log", workers=0)
    try:
        service.ready()
        figures = []
        with httpx.Client(base_url=service.url, timeout=60) as client:
            assert client.get(f"/v1/jobs/{job.id}").json()["status"] == "succeeded"
            figures.append(Figure("memory of the API before", "MiB", resident_mib(service.process.pid)))
            for name, asked in PREVIEWS.items():
                times = []
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

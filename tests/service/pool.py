"""Corpora for the service's tests, a worker that goes on to a point, and waiting for what other processes do."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.jobs.jobs import Jobs
from service.work.pool_worker import PoolWorker

PROSE = "the of a model reads text where every token counts once and no shard is lost when its worker dies"
WORDS = PROSE.split()
# For clients of http:// addresses: httpx reads all certificates for each client else, longer than most calls take.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def sentence(seed: int, words: int) -> str:
    """Text with some structure and no randomness: the same on every machine."""
    return " ".join(WORDS[(seed * 7 + i * i * (1 + seed % 5)) % len(WORDS)] for i in range(words))


def write_corpus(folder: Path, files: int = 3, documents: int = 40, words: int = 30) -> Path:
    """Parquet files with `text`, `id` and `domain` columns, one shard each.

    Small files would share a shard. So the dictionary of the texts has a long value that no row uses, and that the
    footer counts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        rows = range(file * documents, (file + 1) * documents)
        texts = [sentence(row, 2 + (row * 13) % words) for row in rows]
        columns = {
            "text": pa.DictionaryArray.from_arrays(range(documents), [*texts, "x" * (9 << 20)]),
            "id": [f"doc-{row}" for row in rows],
            "domain": [("web", "code", None)[row % 3] for row in rows],
        }
        path = folder / f"part-{file}.parquet"
        table, limit = pa.table(columns), 1 << 30
        pq.write_table(table, path, compression="zstd", store_schema=False, dictionary_pagesize_limit=limit)
    return folder


def train_a_step(folder: Path) -> Path:
    """A reference that was trained for a step: small, real, and quick to score with."""
    from scorer.training.train import train

    texts = [sentence(seed, 40) for seed in range(200)]
    train(lambda: iter(texts), "tiny", 2000, 0, folder / "model", folder / "work", "cpu", lambda *_: None)
    return folder / "model"


def score_shards(jobs: Jobs, worker: PoolWorker, job_id: str, shards: int = 1) -> None:
    """Works until so many shards of a job are scored."""
    while jobs.get(job_id).progress.shards_done < shards:
        worker.once()


def until(condition: Callable[[], Any], seconds: float = 240) -> Any:
    """Waits for what other processes do; fails when they do not do it for a long time."""
    deadline, pause = time.monotonic() + seconds, 0.005
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)  # a look takes some of the time of the processes that it waits for
    return found

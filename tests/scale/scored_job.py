"""A workspace with a job whose shards are all scored: synthetic parts as scoring writes them, and no text."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pruner.tables.documents import SCHEMA, DocumentsWriter
from pruner.tables.shard_scores import ScoresWriter
from pruner.tables.values import PRIOR, ValuesWriter, with_text
from service.contract.schemas import JobRequest
from service.kinds import documents, prior, scores
from service.store.workspace import Workspace
from tests.scale.fake_workspace import make_plan, planned_job
from tests.service.artefacts import files_of

SHARD_ROWS = 10**6
DOMAINS = 1_000
_BATCH_ROWS = 1 << 16
_TOKEN_BYTES = 4  # of text, about
_REJECT = "empty text"
_REJECTS = 1_000  # every so many-th row has no text


def make_scored_job(folder: Path, job_id: str, request: JobRequest, rows: int) -> Workspace:
    """Writes the job and the parts of its shards, on all cores: some 17 bytes a row on disk."""
    workspace = Workspace(str(folder))
    shards = max(1, rows // SHARD_ROWS)
    plan = make_plan(folder / "corpus", shards, rows // shards, text_bytes=1_000 * _TOKEN_BYTES * (rows // shards))
    planned_job(workspace, job_id, plan, request)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        count = len(plan.shards)
        list(pool.map(_write_shard, [folder] * count, [job_id] * count, range(count)))
    return workspace


def _write_shard(folder: Path, job_id: str, number: int) -> None:
    """Writes the documents, the scores and the priors of a shard."""
    storage, job = Workspace(str(folder)).storage, files_of(Workspace(str(folder)), job_id)
    shard, draw = job.plan.shards[number], np.random.default_rng(number)
    assert job.model is not None
    assert shard.rows is not None
    with (
        DocumentsWriter(storage, documents.paths(job)[number]) as document_rows,
        ScoresWriter(storage, scores.paths(job, job.model)[number], {"context": 1024}) as score_rows,
        ValuesWriter(storage, prior.paths(job)[number], PRIOR, {"prior": {}}) as prior_rows,
    ):
        for start in range(0, shard.rows, _BATCH_ROWS):
            row = np.arange(start, min(start + _BATCH_ROWS, shard.rows))
            n_tokens = np.maximum(1, draw.lognormal(6, 1, len(row))).astype(np.int32)
            batch = _documents(draw, row, number * SHARD_ROWS, n_tokens)
            has_text = row % _REJECTS != 0
            nll = draw.normal(3, 0.5, len(row)) * n_tokens
            # Numbers that no selection is made by are rounded, so that they take little space.
            surprisals = np.floor(4 * nll), np.round(draw.normal(12, 2, len(row)), 1), n_tokens // 20
            score_rows.append(batch, n_tokens[has_text], nll[has_text], [values[has_text] for values in surprisals])
            document_rows.append(batch)
            priors = (np.round(draw.normal(mean, 0.5, has_text.sum()), 2) for mean in (-8, 2))
            prior_rows.append(*(with_text(batch, values, PRIOR.types[0]) for values in priors))


def _documents(draw: np.random.Generator, row: np.ndarray, first: int, n_tokens: np.ndarray) -> pa.RecordBatch:
    no_text = row % _REJECTS == 0
    domain = pa.array([f"domain-{number}" for number in range(DOMAINS)]).take(
        pa.array(draw.integers(0, DOMAINS, len(row)))
    )
    columns = {
        "file": pa.array(np.zeros(len(row), np.int32)),
        "row": pa.array(row),
        "id": pc.cast(pa.array(first + row), pa.string()),
        "domain": domain,
        "n_bytes": pa.array(n_tokens * _TOKEN_BYTES + draw.integers(0, n_tokens), pa.int64(), mask=no_text),
        "reject": pa.array(np.where(no_text, _REJECT, ""), pa.string(), mask=~no_text),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)

"""A job of a million documents: its page is small and comes at once. Run by `make page`."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from pruner.corpus.sandbox import read_shard
from pruner.tables.documents import DocumentsWriter
from pruner.tables.shard_scores import ScoresWriter
from scorer.engine.model_loader import ModelLoader
from service.contract.names import RESOURCES
from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.kinds import documents, scores
from service.kinds.job_files import JobFiles
from service.queue.leases import connect
from service.run.app import create_app
from service.run.redis_server import RedisServer
from service.store.workspace import Workspace
from service.work.pool_worker import PoolWorker

pytestmark = pytest.mark.skipif(not os.environ.get("WINNOW_TEST_LONG"), reason="takes a minute: make page")
DOCUMENTS, DOMAINS, SHARDS = 1_000_000, 2_000, 20


@pytest.fixture
def served(tmp_path: Path, model: Path) -> Any:
    """The API over a job whose scores are made up."""
    rng = np.random.default_rng(0)
    names = np.array([f"www.domain-{i}.example" for i in range(DOMAINS)])
    domains = names[np.minimum(rng.zipf(1.3, DOCUMENTS) - 1, DOMAINS - 1)]
    text = pa.array(["a text that nobody scores"] * (DOCUMENTS // SHARDS))
    per = DOCUMENTS // SHARDS
    corpus = tmp_path / "corpus"  # a folder of its own: JSON files are documents too
    corpus.mkdir()
    for i in range(SHARDS):
        part = pa.table({"text": text, "domain": domains[i * per : (i + 1) * per]})
        pq.write_table(part, corpus / f"{i:02}.parquet")
    server = RedisServer(tmp_path / "redis")
    server.start()
    jobs = Jobs(Workspace(str(tmp_path / "workspace")), connect(server.url))
    request = JobRequest.model_validate(
        {
            "corpus": {"paths": [str(corpus)], "domain_field": "domain"},
            "reference": {"model": str(model)},
            "selections": [{"criterion": c, "rate": r} for c in ("low", "medium", "high") for r in (0.25, 0.5, 0.75)],
        }
    )
    job, _ = jobs.create(request)
    worker = PoolWorker(jobs, ModelLoader("cpu"), RESOURCES, "here")
    while jobs.get(job.id).status != "scoring":
        assert worker.once(), jobs.get(job.id).error
    record = jobs.workspace.job(job.id)
    assert record is not None
    files = JobFiles(jobs.workspace, record)
    assert files.model is not None
    about = {"architecture": "made-up", "parameters": 1, "dtype": "float32", "device": "cpu", "context": 1024}
    made = zip(files.plan.shards, scores.paths(files, files.model), documents.paths(files), strict=True)
    for shard, scores_path, documents_path in made:
        with (
            ScoresWriter(jobs.workspace.storage, scores_path, about | {"versions": {}}) as scored,
            DocumentsWriter(jobs.workspace.storage, documents_path) as listed,
        ):
            for batch in read_shard(files.plan, shard, request.corpus):
                tokens = rng.lognormal(6, 1.5, len(batch)).astype(np.int64) + 1
                nll = tokens * rng.normal(3.6, 0.7, len(batch)).clip(0.05)
                scored.append(batch, tokens, nll, [np.zeros(len(batch))] * 3)
                listed.append(batch)
    while worker.once():
        pass
    assert jobs.get(job.id).status == "succeeded"
    with TestClient(create_app(jobs), base_url="http://127.0.0.1") as client:
        yield client, job.id
    server.close()


def test_a_million_documents(served: tuple[httpx.Client, str], capsys: pytest.CaptureFixture[str]) -> None:
    client, job = served
    addresses = {
        "page": f"/jobs/{job}",
        "preview, by documents": f"/jobs/{job}?part=preview&criterion=high&rate=0.37",
        "preview, by tokens": f"/jobs/{job}?part=preview&criterion=medium&rate=0.37&unit=tokens",
        "preview, in each of 2,000 domains": f"/jobs/{job}?part=preview&criterion=low&rate=0.37&within=domain",
        "API preview": f"/v1/jobs/{job}/preview?criterion=medium&rate=0.37&unit=tokens",
    }
    for name, address in addresses.items():
        seconds = []
        for _ in range(9):
            started = time.perf_counter()
            answer = client.get(address)
            seconds.append(time.perf_counter() - started)
            assert answer.status_code == 200, answer.text
        with capsys.disabled():
            sys.stdout.write(f"\n{name}: {1000 * sorted(seconds)[4]:.0f} ms, {len(answer.content) / 1000:.0f} kB")
        if name == "page":
            assert f"<dd>{DOMAINS:,}" in answer.text
        if not address.startswith("/v1"):
            assert len(answer.content) < 150_000

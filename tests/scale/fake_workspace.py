"""A workspace with a job that has all its shards to score, and one that is done: small files, no documents."""

from datetime import datetime, timezone
from pathlib import Path

from pruner.corpus.files import CorpusFile
from pruner.corpus.paths import parse
from pruner.corpus.plan import Plan
from pruner.corpus.plan_file import write_plan
from pruner.corpus.shard import Shard
from pruner.select.domains import DomainRow
from pruner.select.selection_record import SelectionRecord
from pruner.select.write_index import IndexCounts
from service.contract.schemas import JobRequest, Progress
from service.kinds import index, prior, report, selection
from service.kinds.job_files import JobFiles
from service.store.records import CorpusRecord, JobRecord, ModelRecord, Outcome
from service.store.workspace import Workspace

SCORING, DONE = "scoring", "done"  # ids of the two jobs
_DOCUMENTS = 10_000  # of a shard
_FILES = 100


def make_workspace(folder: Path, shards: int) -> Workspace:
    """Writes both jobs, over one plan of so many shards."""
    workspace = Workspace(str(folder))
    plan = make_plan(folder / "corpus", shards, _DOCUMENTS, text_bytes=32 << 20)
    request = JobRequest.model_validate({"corpus": {"paths": ["/corpus"]}, "reference": {"model": "/model"}})
    for job_id in (SCORING, DONE):
        planned_job(workspace, job_id, plan, request)
    _finish(workspace, DONE, shards)
    return workspace


def make_plan(corpus: Path, shards: int, rows: int, text_bytes: int) -> Plan:
    """A plan of shards with so many rows and bytes of text each, of files that are not there."""
    files = tuple(
        CorpusFile(
            parse(f"{corpus}/part-{number:05}.parquet"),
            "parquet",
            None,
            1 << 30,
            str(number),
            f"part-{number:05}.parquet",
            f"{number:064x}",
        )
        for number in range(min(_FILES, shards))
    )
    cut = (Shard(n, n * len(files) // shards, 1, n, n + 1, rows, text_bytes, f"{n:064x}") for n in range(shards))
    return Plan(files, tuple(cut))


def planned_job(workspace: Workspace, job_id: str, plan: Plan, request: JobRequest) -> None:
    """Writes a job whose corpus is planned and whose reference and token counts are known."""
    now = datetime.now(timezone.utc)
    workspace.create_job(JobRecord(id=job_id, created_at=now, request=request))
    path = f"corpus/{plan.digest}/plan.parquet"
    if not workspace.storage.exists(path):
        write_plan(workspace.storage, path, plan)
    corpus = CorpusRecord(
        started_at=now,
        digest=plan.digest,
        documents=plan.documents,
        shards=len(plan.shards),
        text_bytes=plan.text_bytes,
        files=len(plan.files),
        bytes=plan.text_bytes,
        left_out=(),
    )
    # Another model for each job: they would share their scores.
    model = ModelRecord(source="/model", trained=False, sha256=job_id, tokenizer_sha256=job_id)
    workspace.records.write(workspace.path(job_id, "corpus.json"), corpus)
    workspace.records.write(workspace.path(job_id, "model.json"), model)
    record = workspace.job(job_id)
    assert record is not None
    counts, *_ = prior.nodes(JobFiles(workspace, record))
    workspace.storage.write_bytes(counts.paths[0], b"")


def _finish(workspace: Workspace, job_id: str, shards: int) -> None:
    record = workspace.job(job_id)
    assert record is not None
    job, documents = JobFiles(workspace, record), shards * _DOCUMENTS
    counts = IndexCounts(
        documents=documents, tokens=documents, rejects=0, training=0, eligible=documents, scorers=[{"context": 1024}]
    )
    workspace.records.write(
        f"{index.folder(job)}/index.json", index.IndexRecord(counts=counts, shards=shards, provenance={"winnow": "0"})
    )
    rows = [
        DomainRow(domain=f"domain {n}", documents=1, tokens=1, documents_share=0.01, tokens_share=0.01)
        for n in range(100)
    ]
    for spec in job.selections:
        made = SelectionRecord(
            spec=spec,
            documents=documents // 2,
            tokens=documents // 2,
            perplexity_min=10.0,
            perplexity_max=20.0,
            start=documents // 4,
            stop=3 * documents // 4,
            domains=rows,
            files={},
        )
        workspace.records.write(selection.path(job, spec), made)
    workspace.storage.write_bytes(report.path(job), b"{}")
    outcome = Outcome(
        status="succeeded",
        started_at=record.created_at,
        finished_at=record.created_at,
        progress=Progress(documents_done=documents, shards_done=shards, shards_total=shards),
    )
    workspace.end(job_id, outcome)

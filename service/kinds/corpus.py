"""Kind `corpus`: the plan of a job's corpus, one part. The plan lies under its digest, the job's record names it."""

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone

from pruner.corpus.paths import is_below
from pruner.corpus.plan import Plan
from pruner.corpus.plan_file import write_plan
from pruner.corpus.plan_rows import column
from pruner.corpus.sandbox import Planning, make_plan
from pruner.errors import InputError
from service.kinds import field
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, Node, Task
from service.store.records import CorpusRecord
from service.store.workspace import Workspace, digest

VERSION = 1
_BEAT_FILES = 1_000


def nodes(job: JobFiles) -> Iterator[Node]:
    """The job's plan."""
    yield Node("corpus", "light", "planning", [job.corpus_path])


def run(task: Task) -> Counts:
    """Lists the files, reads their footers and cuts them into shards. Raises InputError."""
    started, record = datetime.now(timezone.utc), task.job.record
    planning = Planning()

    def waiting() -> None:
        task.beat(files=planning.looked, files_total=planning.listed)

    numbers = list(field.fields(task.job).values())
    plan = make_plan(record.request.corpus, record.access.roots, waiting, record.ignored, planning, numbers)
    refuse_own_files(task.job.workspace, _urls(plan, waiting))
    refusal = record.quotas.too_large(len(plan.shards), plan.text_bytes)
    if refusal is not None:
        raise InputError(refusal)
    with task.beat.allow(120):
        # The digest leaves out the paths below the corpus root, which give exported files their names.
        path = f"corpus/{digest('corpus', VERSION, plan.digest, column(plan.files, 'relative'))}/plan.parquet"
        if not task.storage.exists(path):
            write_plan(task.storage, path, plan)
    found = CorpusRecord(
        started_at=started,
        digest=plan.digest,
        plan=path,
        documents=plan.documents,
        shards=len(plan.shards),
        text_bytes=plan.text_bytes,
        files=len(plan.files),
        bytes=plan.bytes,
        left_out=plan.left_out,
    )
    task.job.workspace.records.write(task.path, found)
    return Counts(fresh=True)


def _urls(plan: Plan, beat: Callable[[], None]) -> Iterator[str]:
    for number, file in enumerate(plan.files):
        if number % _BEAT_FILES == 0:
            beat()
        yield file.url


def refuse_own_files(workspace: Workspace, urls: Iterable[str]) -> None:
    """Raises InputError for a corpus with files in the workspace, which holds the results of all owners."""
    own = next(lying_in(workspace, urls), None)
    if own is not None:
        raise InputError(f"{own}: lies in the service's workspace, which no job may read")


def lying_in(workspace: Workspace, urls: Iterable[str]) -> Iterator[str]:
    """Of absolute local paths, links resolved, and URLs, those that are the workspace or lie in it."""
    local = workspace.storage.local("")
    home = os.path.realpath(local) if local is not None else workspace.storage.url.partition("://")[2]
    for url in urls:
        if ("://" in url) == (local is None):
            real = os.path.realpath(url) if local is not None else url.partition("://")[2]
            if is_below(real, home):
                yield url

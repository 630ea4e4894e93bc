"""The life of a job on any queue: it advances as its artefacts are made, and ends. Truth is in the workspace."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

from service.contract.names import ENDED, Resource, Status
from service.contract.schemas import Job, Problem, Progress
from service.jobs.graph import Graph, Ready, look
from service.jobs.status import progress_of, show_job, started_at
from service.kinds import ablation, classifier, documents, export, index, passes, report, scores
from service.kinds.job_files import JobFiles
from service.kinds.node import Node, ShardPaths
from service.queue.tasks import JobState, NodeTasks, TaskQueue, ranges
from service.store.records import Ended, JobRecord, JobSummary, Outcome, parse_summary
from service.store.workspace import Workspace

ADVANCE: tuple[str, Resource] = ("advance", "light")  # the task that looks at a job again, after each node
_COUNTERS = {"scores": scores.counters, "classifier": classifier.counters, "documents": documents.counters}
_READERS = 16  # threads that read what earlier runs have made


class Lifecycle:
    """All that moves a job on. Raises what the queue and the workspace raise."""

    def __init__(self, workspace: Workspace, queue: TaskQueue) -> None:
        self.workspace = workspace
        self.queue = queue

    def advance(self, job_id: str) -> None:
        """Submits what the workspace says comes next, or ends the job. Doing it again changes nothing."""
        record = self.workspace.job(job_id)
        if record is None:
            self.queue.forget(job_id)
            return
        outcome = self.workspace.outcome(job_id)
        status = outcome.status if outcome else None
        created, empty = _micros(record.created_at), JobSummary().model_dump_json()
        self.queue.add(job_id, created, labels(record, status), empty, record.owner, record.request.priority)
        job, going = JobFiles(self.workspace, record), status in (None, "succeeded")
        graph = look(job) if going else Graph(job)
        summary = self._summary(graph, status).model_dump_json()
        if status is not None:
            self.queue.end(job_id, labels(record, status), summary, closed=status != "succeeded")
        if going:
            for found in graph.ready():
                self._submit(job, found, summary)
        if status is None and graph.complete:
            self.end(job_id, "succeeded")

    def end(self, job_id: str, status: Ended, problem: Problem | None = None) -> Ended:
        """Ends a job on storage, then in the queue, unless it has ended; the status that stands."""
        record = self.workspace.job(job_id)
        if record is None:
            self.queue.forget(job_id)
            return status
        workspace = self.workspace.without_damaged if status == "failed" else self.workspace
        job, outcome = JobFiles(workspace, record), self.workspace.outcome(job_id)
        if outcome is None:
            state = self.queue.state(job_id)
            outcome = self.workspace.end(
                job_id,
                Outcome(
                    status=status,
                    started_at=started_at(job, state),
                    finished_at=_now(),
                    progress=_final_progress(job, state, status),
                    model=job.model_path if job.model is not None else None,
                    index=index.folder(job) if index.find(job) is not None else None,
                    report=report.VERSION,
                    error=problem,
                ),
            )
        summary = self._summary(Graph(job), outcome.status).model_dump_json()
        closed = outcome.status != "succeeded"
        self.queue.end(job_id, labels(record, outcome.status), summary, closed=closed)
        self._sweep(job)
        return outcome.status

    def drop(self, job_id: str, node: str, problem: Problem) -> bool:
        """Gives up what a job that has succeeded was asked for later, because a node of it cannot be made.

        That is the selection, the export or the ablation that the node makes, and all exports and ablations of this
        selection; with another node, all selections that are in no report, all exports and all ablations. Returns
        whether there was one.
        """
        record, state = self.workspace.job(job_id), self.queue.state(job_id)
        if record is None or state is None:
            return False
        kind, _, name = node.partition("/")
        job = JobFiles(self.workspace, record)
        reported = parse_summary(state.summary).selections
        asked = {spec.id for spec in job.selections}
        lost = asked - {spec.id for spec in record.request.selections} - set(reported)
        exports = [wanted for wanted in job.exports if export.find(job, wanted) is None]
        ablations = [wanted for wanted in job.ablations if ablation.find(job, wanted) is None]
        which = name.partition("/")[0]
        if kind == "selection":
            lost &= {which}
            exports = [wanted for wanted in exports if wanted.spec.id == which]
            ablations = [wanted for wanted in ablations if which in {spec.id for spec in wanted.needed}]
        elif kind in ("export", "ablation"):
            lost.clear()
            exports = [wanted for wanted in exports if kind == "export" and wanted.id == which]
            ablations = [wanted for wanted in ablations if kind == "ablation" and wanted.id == which]
        for selection_id in lost:
            self.workspace.unwant(job_id, selection_id)
        for wanted in exports:
            self.workspace.fail_export(job_id, wanted.id, problem)
        for ablated in ablations:
            self.workspace.fail_ablation(job_id, ablated.id, problem)
        return bool(lost or exports or ablations)

    def show(self, record: JobRecord, state: JobState | None) -> Job:
        """A job as returned."""
        ended = state is None or parse_summary(state.summary).status in ENDED
        job = JobFiles(self.workspace, record)
        outcome = job.outcome if ended else None
        if outcome is not None and outcome.status == "failed":
            job = JobFiles(self.workspace.without_damaged, record)
        return show_job(job, outcome, state)

    def _submit(self, job: JobFiles, ready: Ready, summary: str) -> None:
        node, missing = ready
        counters = {"total": len(node.paths), "parts": len(node.paths) - len(missing)}
        if counters["parts"] and node.name == passes.of(job)[0]:
            counters |= self._counted(node, set(missing))
        self.queue.submit(job.record.id, NodeTasks(node.name, node.resource, ranges(missing), counters), summary)

    def _counted(self, node: Node, missing: set[int]) -> dict[str, int]:
        """The counters of the parts that are there, made by an earlier run or another job."""
        there = [path for part, path in enumerate(node.paths) if part not in missing]
        read, counters = _COUNTERS[node.kind], Counter[str]()
        with ThreadPoolExecutor(_READERS) as pool:  # workspaces may be far away
            for found in pool.map(lambda path: read(self.workspace.storage, path), there):
                counters.update(found)
        return dict(counters) | {"found": counters["tokens"]}

    def _summary(self, graph: Graph, status: Status | None) -> JobSummary:
        corpus, job_id = graph.job.corpus, graph.job.record.id
        path: str | None
        reported = graph.nodes.get("report")
        if reported is not None and not graph.missing(reported):
            path, selections = reported.paths[0], tuple(spec.id for spec in graph.job.selections)
        else:  # the report of before stays until another selection is made
            state = self.queue.state(job_id)
            before = JobSummary() if state is None else parse_summary(state.summary)
            path, selections = before.report, before.selections
        return JobSummary(
            status=status or graph.status,
            documents=corpus.documents if corpus else None,
            shards=corpus.shards if corpus else 0,
            text_bytes=corpus.text_bytes if corpus else 0,
            indexed="index" in graph.nodes and not graph.missing(graph.nodes["index"]),
            report=path,
            selections=selections,
        )

    def _sweep(self, job: JobFiles) -> None:
        """Removes what killed workers left of a job."""
        folders = {self.workspace.folder(job.record.id)}
        for node in Graph(job).nodes.values():
            paths = node.paths
            folders.add(paths.folder if isinstance(paths, ShardPaths) else paths[0].rpartition("/")[0])
        for folder in folders:
            self.workspace.storage.sweep(folder)


def labels(record: JobRecord, ended: Status | None) -> list[str]:
    """The labels under which the queue lists a job."""
    return [label(owner, word) for owner in (None, record.owner or "") for word in ("all", ended or "open")]


def label(owner: str | None, word: str) -> str:
    """`all`, `open` or the status of ended jobs; of one owner, "" for jobs without, or of all."""
    return word if owner is None else f"owner:{owner}:{word}"


def _final_progress(job: JobFiles, state: JobState | None, status: Ended) -> Progress:
    now = progress_of(job, state) if state is not None else Progress()
    now.updated_at, now.eta_seconds, now.waiting_for = _now(), None, None
    found = index.find(job) if status == "succeeded" else None
    if found is None:
        return now
    counts = found.counts
    done = {"documents_done": counts.documents, "tokens_done": counts.tokens, "rejects": counts.rejects}
    return now.model_copy(update=done | {"shards_done": found.shards, "shards_total": found.shards})


def _micros(when: datetime) -> int:
    return round(when.timestamp() * 1_000_000)


def _now() -> datetime:
    return datetime.now(timezone.utc)

"""Jobs on Redis: accepting, listing, showing, cancelling; and rebuilding Redis from the workspace."""

import logging
import math
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone

from redis import Redis

from pruner.errors import InputError
from pruner.spec import SelectionSpec
from service.contract.names import ENDED, STATUSES, Status
from service.contract.permissions import Access
from service.contract.quotas import Quotas, Usage
from service.contract.schemas import Job, JobPage, JobRequest, JobWorkers, SelectionResult
from service.contract.scorers import check_selection
from service.jobs.lifecycle import ADVANCE, Lifecycle, label
from service.jobs.status import scored_under_way, workers_of
from service.kinds import index
from service.kinds.job_files import JobFiles
from service.queue.leases import Queue
from service.queue.score_requests import ScoreRequests
from service.queue.tasks import JobState, NodeTasks
from service.store.records import JobRecord, JobSummary, parse_summary
from service.store.workspace import Workspace, digest

log = logging.getLogger(__name__)
_READERS = 16  # threads that read the workspace in a rebuild
_PIECE = 500  # jobs that Redis is asked for at once
_CHECK_SECONDS = 1.0  # how often a process asks whether Redis has lost its data


class UnknownJob(LookupError):
    """There is no job of this id."""


class Conflict(Exception):
    """The job is not in a state for this. The message is one line."""


def not_there(status: Status, what: str) -> Conflict:
    """The error for something that a job has only when it is scored, and this one has not."""
    if status in ("failed", "cancelled"):
        return Conflict(f"the job {'has failed' if status == 'failed' else 'was cancelled'} and has no {what}")
    return Conflict(f"the job is {status} and has no {what} yet: ask again when it has succeeded")


def check_possible(request: JobRequest, spec: SelectionSpec) -> None:
    """Raises InputError where a selection needs domains, or a score, that the job of a request does not have."""
    if spec.in_domains and request.corpus.domain_field is None:
        raise InputError("a selection within 'domain' needs a job with corpus.domain_field")
    try:
        check_selection(spec, request.scores, has_reference=request.reference is not None)
    except ValueError as error:
        raise InputError(str(error)) from None


class KeyReused(Conflict):
    """The idempotency key was used for another request."""


class Jobs:
    """What the API and the pool do with jobs. Raises redis.RedisError when Redis is away."""

    def __init__(
        self, workspace: Workspace, redis: "Redis", lease_seconds: float = 15.0, quotas: Quotas | None = None
    ) -> None:
        self.workspace = workspace
        self.queue = Queue(redis, workspace.id, lease_seconds)
        self.lifecycle = Lifecycle(workspace, self.queue)
        self.score_requests = ScoreRequests(self.queue)
        self.quotas = quotas or Quotas()
        self._checking = threading.Lock()
        self._checked = float("-inf")

    # -- requests of users
    def create(
        self,
        request: JobRequest,
        idempotency_key: str | None = None,
        owner: str | None = None,
        access: Access | None = None,
    ) -> tuple[Job, bool]:
        """Accepts a job: the job, and False if the key's job was there already. Raises KeyReused, QuotaExceeded."""
        self.check()
        named = ("key", idempotency_key) if owner is None else ("key", owner, idempotency_key)
        job_id = uuid.uuid4().hex[:20] if idempotency_key is None else digest(*named)[:20]
        now = datetime.now(timezone.utc)
        record = JobRecord(
            id=job_id, created_at=now, request=request, owner=owner, access=access or Access(), quotas=self.quotas
        )
        known = idempotency_key is not None and self.workspace.job(job_id) is not None
        limited = not known and self.quotas != Quotas()
        with self.queue.admission(owner) if limited else nullcontext():
            if limited:
                self.quotas.check(self._usage(owner))
            created = not known and self.workspace.create_job(record)
            if not created and self._record(job_id).request != request:
                raise KeyReused("this Idempotency-Key was used for another request: use a new key for a new job")
            self.lifecycle.advance(job_id)
        return self.get(job_id), created

    def get(self, job_id: str) -> Job:
        """One job. Raises UnknownJob."""
        self.check()
        state = self.queue.state(job_id)
        if state is None:
            self._record(job_id)
            self.lifecycle.advance(job_id)
            state = self.queue.state(job_id)
        found = None if state is None else self._show(job_id, state)
        if found is None:
            raise UnknownJob(job_id)
        return found

    def owner(self, job_id: str) -> str | None:
        """The owner of a job, None of one without. Raises UnknownJob."""
        self.check()
        owner = self.queue.owner(job_id)
        return self._record(job_id).owner if owner is None else owner or None

    def page(
        self, limit: int = 20, cursor: str | None = None, status: Status | None = None, owner: str | None = None
    ) -> JobPage:
        """Jobs, newest first; of one owner, or of all. Raises ValueError for a cursor that no page gave."""
        self.check()
        if status is None or status in ENDED:
            ids, more = self.queue.page(label(owner, status or "all"), limit, cursor)
            return JobPage(data=[job for job, _ in self._shown(ids)], next_cursor=more)
        data: list[Job] = []
        while True:  # the queue knows only that these have not ended, and they are few
            ids, more = self.queue.page(label(owner, "open"), _PIECE, cursor)
            for job, state in self._shown(ids):
                if job.status == status:
                    if len(data) == limit:
                        return JobPage(data=data, next_cursor=cursor)
                    data.append(job)
                cursor = f"{state.created}-{job.id}"
            if more is None:
                return JobPage(data=data, next_cursor=None)
            cursor = more

    def cancel(self, job_id: str) -> Job:
        """Cancels a job; one that is cancelled stays so. Raises UnknownJob, Conflict when it ended otherwise."""
        self._record(job_id)
        ended = self.lifecycle.end(job_id, "cancelled")
        if ended != "cancelled":
            raise Conflict(f"the job has {ended} already: there is nothing to cancel")
        return self.get(job_id)

    def add_selection(self, job_id: str, spec: SelectionSpec) -> SelectionResult | None:
        """Asks for one more selection: its result if it is there, else None, and `selection` gives it when it is.

        Raises UnknownJob; Conflict while the job is not scored; InputError for a selection that it cannot make.
        """
        record = self._record(job_id)
        check_possible(record.request, spec)
        job = self.get(job_id)
        files = JobFiles(self.workspace, record)
        if any(other.id == spec.id and other != spec for other in files.selections):
            raise Conflict(f"the job has another selection with the name {spec.id!r}: give this one another name")
        made = next((made for made in job.selections if made.id == spec.id), None)
        if made is not None:
            return made
        if job.status in ("failed", "cancelled") or index.find(files) is None:
            raise not_there(job.status, "scores to select from")
        self.workspace.want(job_id, spec)
        self.lifecycle.advance(job_id)
        return None

    def selection(self, job_id: str, selection_id: str) -> SelectionResult | None:
        """A selection of a job, or None while it is not made. Raises UnknownJob."""
        return next((made for made in self.get(job_id).selections if made.id == selection_id), None)

    def workers(self, job_id: str) -> JobWorkers:
        """The workers that have tasks of a job now. Raises UnknownJob."""
        self.get(job_id)
        state = self.queue.state(job_id)
        return JobWorkers(data=workers_of(state) if state is not None else [])

    def bins_under_way(self, job_id: str) -> dict[int, dict[int, tuple[int, int]]]:
        """What workers have scored of the shards that they score now, by shard and bin of ln(perplexity)."""
        state = self.queue.state(job_id)
        return {} if state is None else scored_under_way(state)

    def files(self, job_id: str) -> tuple[Job, JobFiles]:
        """A job and its files. Raises UnknownJob."""
        return self.get(job_id), JobFiles(self.workspace, self._record(job_id))

    def report_path(self, job_id: str) -> str | None:
        """The file of a job's latest report, or None while there is none."""
        state = self.queue.state(job_id)
        return None if state is None else parse_summary(state.summary).report

    def counts(self) -> dict[Status, int]:
        """How many jobs have each status."""
        found = {status: self.queue.count(status) if status in ENDED else 0 for status in STATUSES}
        for job, _ in self._shown(self.queue.labelled("open")):
            found[job.status] += 1
        return found

    # -- Redis and the workspace
    def check(self) -> None:
        """Rebuilds Redis from the workspace if it has lost its data since the last check."""
        if time.monotonic() - self._checked < _CHECK_SECONDS:
            return
        with self._checking:  # once, whatever number of threads ask
            if time.monotonic() - self._checked < _CHECK_SECONDS:
                return
            epoch = self.queue.epoch()
            if epoch is not None:
                self.recover()
                self.queue.reconciled(epoch)
            self._checked = time.monotonic()

    def recover(self) -> None:
        """Makes Redis hold what the workspace says, and no more. Harmless at any time. Raises Rebuilding."""
        self.queue.rebuild()
        known, there = set(self.queue.labelled("all")), set(self.workspace.jobs())
        wrong = sorted((known | there) - self._settled(known & there))
        with ThreadPoolExecutor(_READERS) as pool:  # workspaces may be far away
            for number, _ in enumerate(pool.map(self._recover, wrong)):
                if number % _READERS == 0:
                    self.queue.rebuild()

    def _settled(self, job_ids: set[str]) -> set[str]:
        """Which of these jobs have ended and were asked for no later selection."""
        ids, settled = sorted(job_ids), set[str]()
        for start in range(0, len(ids), _PIECE):
            piece = ids[start : start + _PIECE]
            for job_id, state in zip(piece, self.queue.states(piece, _ended), strict=True):
                status = None if state is None else parse_summary(state.summary).status
                if status in ENDED and (
                    status != "succeeded" or not self.workspace.storage.list(self.workspace.path(job_id, "selections"))
                ):
                    settled.add(job_id)
        return settled

    def _recover(self, job_id: str) -> None:
        try:
            self.lifecycle.advance(job_id)
        except (InputError, ValueError, KeyError, FileNotFoundError) as error:  # one bad folder stops no other
            log.warning("job %s cannot go on: %s", job_id, error)
            node, resource = ADVANCE  # a worker meets the error too, and fails the job with it
            self.queue.submit(job_id, NodeTasks(node, resource, [range(1)]), JobSummary().model_dump_json())

    # -- inside
    def _record(self, job_id: str) -> JobRecord:
        record = self.workspace.job(job_id)
        if record is None:
            raise UnknownJob(job_id)
        return record

    def _show(self, job_id: str, state: JobState) -> Job | None:
        created = datetime.fromtimestamp(0, timezone.utc) + timedelta(microseconds=state.created)
        record = self.workspace.records.recall(JobRecord, self.workspace.path(job_id, "job.json"), created)
        return None if record is None else self.lifecycle.show(record, state)

    def _shown(self, ids: list[str]) -> list[tuple[Job, JobState]]:
        """The jobs of these ids that can be shown; one with a damaged file hides no other."""
        shown = []
        for job_id, state in zip(ids, self.queue.states(ids, _ended), strict=True):
            try:
                job = None if state is None else self._show(job_id, state)
            except (InputError, FileNotFoundError) as error:
                log.warning("job %s cannot be shown: %s", job_id, error)
                continue
            if job is not None and state is not None:
                shown.append((job, state))
        return shown

    def _usage(self, owner: str | None) -> Usage:
        """What an owner has unfinished. A job that is not planned yet has no shards."""
        used = Usage()
        for state in self.queue.states(self.queue.labelled(label(owner or "", "open")), _ended):
            if state is not None:
                summary, done = parse_summary(state.summary), state.counters.get("scores", {})
                left = summary.shards - done.get("parts", 0)
                used.jobs, used.shards = used.jobs + 1, used.shards + left
                used.bytes += math.ceil(summary.text_bytes * left / max(1, summary.shards))
        return used


def _ended(summary: str) -> bool:
    return parse_summary(summary).status in ENDED

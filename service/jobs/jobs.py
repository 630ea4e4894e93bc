"""The job's life: accepting, showing, cancelling and moving on. Truth is in the workspace; Redis is rebuilt from it."""

import logging
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timezone

from redis import Redis

from pruner.errors import InputError
from pruner.spec import SelectionSpec
from service.contract.names import Status
from service.contract.permissions import Access
from service.contract.schemas import (
    SELECTIONS_MAX,
    Job,
    JobPage,
    JobRequest,
    JobWorkers,
    Problem,
    Progress,
    SelectionResult,
    WorkerState,
)
from service.jobs.quotas import Quotas
from service.jobs.status import make_view, progress_of, show_job, started_at
from service.jobs.steps import next_step, score_key, unmade
from service.queue.leases import Queue
from service.queue.score_requests import Questions
from service.store.workspace import Ended, JobRecord, Outcome, Workspace, digest

log = logging.getLogger(__name__)
_READERS = 16  # threads that read the workspace in a rebuild
_PIECE = 500  # jobs that Redis is asked for at once
_CHECK_SECONDS = 1.0  # how often a process asks whether Redis has lost its data


class UnknownJob(LookupError):
    """There is no job of this id."""


class Conflict(Exception):
    """The job is not in a state for this. The message is one line."""


def not_there(status: Status, what: str) -> Conflict:
    """Why a job of this status has not `what` a job has that is scored."""
    if status in ("failed", "cancelled"):
        return Conflict(f"the job {'has failed' if status == 'failed' else 'was cancelled'} and has no {what}")
    return Conflict(f"the job is {status} and has no {what} yet: ask again when it has succeeded")


class KeyReused(Conflict):
    """The idempotency key was used for another request."""


class Jobs:
    """All that the API, the workers and the supervisor do with jobs. Raises redis.RedisError when Redis is away."""

    def __init__(
        self, workspace: Workspace, redis: "Redis", lease_seconds: float = 15.0, quotas: Quotas | None = None
    ) -> None:
        self.workspace = workspace
        self.queue = Queue(redis, workspace.id, lease_seconds)
        self.questions = Questions(self.queue)
        self.quotas = quotas or Quotas()
        self._checking = threading.Lock()
        self._checked = float("-inf")

    # -- what users ask for
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
        record = JobRecord(
            id=job_id, created_at=_now(), request=request, owner=owner, access=access or Access(), quotas=self.quotas
        )
        known = idempotency_key is not None and self.workspace.job(job_id) is not None
        if not known:
            self.quotas.admit(self.queue, job_id, owner)
        created = not known and self.workspace.create_job(record)
        if not created and self._record(job_id).request != request:
            raise KeyReused("this Idempotency-Key was used for another request: use a new key for a new job")
        self.advance(job_id)
        return self.get(job_id), created

    def get(self, job_id: str) -> Job:
        """One job. Raises UnknownJob."""
        self.check()
        state = self.queue.state(job_id)
        if state is None:
            self._record(job_id)
            self.advance(job_id)
            state = self.queue.state(job_id)
        if state is None:
            raise UnknownJob(job_id)
        return show_job(state.view, state)

    def owner(self, job_id: str) -> str | None:
        """Whose job it is. Raises UnknownJob."""
        self.check()
        owner = self.queue.owner(job_id)
        return self._record(job_id).owner if owner is None else owner or None

    def page(
        self, limit: int = 20, cursor: str | None = None, status: Status | None = None, owner: str | None = None
    ) -> JobPage:
        """Jobs, newest first; of one owner, or of all. Raises ValueError for a cursor that no page gave."""
        self.check()
        ids, more = self.queue.page(limit, cursor, status, owner)
        states = [state for state in self.queue.states(ids) if state is not None]
        return JobPage(data=[show_job(state.view, state) for state in states], next_cursor=more)

    def cancel(self, job_id: str) -> Job:
        """Cancels a job; one that is cancelled stays so. Raises UnknownJob, Conflict when it ended otherwise."""
        self._record(job_id)
        ended = self._end(job_id, "cancelled")
        if ended != "cancelled":
            raise Conflict(f"the job has {ended} already: there is nothing to cancel")
        return self.get(job_id)

    def add_selection(self, job_id: str, spec: SelectionSpec) -> SelectionResult | None:
        """Asks for one more selection: its result if it is there, else None, and `selection` tells when it is.

        Raises UnknownJob; Conflict while the job is not scored; InputError for a selection that it cannot make.
        """
        record = self._record(job_id)
        if spec.within is not None and record.request.corpus.domain_field is None:
            raise InputError("a selection within 'domain' needs a job with corpus.domain_field")
        made = self.selection(job_id, spec.id)
        if made is not None:
            return made
        outcome = self.workspace.outcome(job_id)
        if outcome is not None and outcome.status != "succeeded":
            raise not_there(outcome.status, "scores to select from")
        if self.workspace.results(job_id) is None:
            raise not_there(self.get(job_id).status, "scores to select from")
        if self.workspace.selections(job_id) >= SELECTIONS_MAX:
            raise Conflict(f"the job has {SELECTIONS_MAX:,} selections, the most there are: submit it again for others")
        self.workspace.want(job_id, spec)
        self.queue.submit(job_id, "select", 1, make_view(self.workspace, record))
        return None

    def workers(self, job_id: str) -> JobWorkers:
        """Who works on a job now. Raises UnknownJob."""
        self.get(job_id)
        held = self.queue.leases(job_id)
        return JobWorkers(
            data=[
                WorkerState(
                    **{name: value for name, value in asdict(lease).items() if not name.endswith("_at")},
                    claimed_at=datetime.fromtimestamp(lease.claimed_at / 1000, timezone.utc),
                    seen_at=datetime.fromtimestamp(lease.seen_at / 1000, timezone.utc),
                )
                for lease in held
            ]
        )

    def selection(self, job_id: str, selection_id: str) -> SelectionResult | None:
        """A selection of a job, or None while it is not made. Raises UnknownJob."""
        return next((made for made in self.get(job_id).selections if made.id == selection_id), None)

    # -- what workers do
    def advance(self, job_id: str) -> None:
        """Submits what the workspace says comes next, or ends the job. Doing it again changes nothing."""
        record = self.workspace.job(job_id)
        if record is None:
            self.queue.forget(job_id)
            return
        view = make_view(self.workspace, record)
        priority = record.request.priority
        self.queue.add(job_id, _micros(record.created_at), view, owner=record.owner, priority=priority)
        if view["outcome"] is not None:
            ended: Ended = view["outcome"]["status"]
            self.queue.end(job_id, ended, view)
        else:
            step = next_step(self.workspace, record)
            if step != "end":
                plan = self.workspace.plan_record(job_id)
                count = plan.shards if plan is not None and step == "score" else 1
                text_bytes = plan.text_bytes if plan is not None else 0
                self.queue.submit(job_id, step, count, view, text_bytes)
                return
            ended = self._end(job_id, "succeeded")
        # A selection may have been asked for while the job ended.
        if ended == "succeeded" and unmade(self.workspace, record):
            self.queue.submit(job_id, "select", 1, make_view(self.workspace, record))

    def fail(self, job_id: str, problem: Problem) -> None:
        """Ends a job with the reason; of one that has succeeded, a later selection that cannot be made is forgotten."""
        if self._end(job_id, "failed", problem) == "succeeded":
            for name in unmade(self.workspace, self._record(job_id)):
                self.workspace.storage.remove(self.workspace.selection_path(job_id, name, "spec.json"))

    def refresh(self, job_id: str) -> None:
        """Shows the selections that the workspace has of a job that has ended."""
        if (outcome := self.workspace.outcome(job_id)) is not None:
            self.queue.end(job_id, outcome.status, make_view(self.workspace, self._record(job_id)))

    def check(self) -> None:
        """Rebuilds Redis from the workspace if it has lost its data since the last look."""
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
        known = self.queue.jobs()
        there = self.workspace.jobs()
        wrong = sorted({*known, *there} - self._settled(set(known) & set(there)))
        with ThreadPoolExecutor(_READERS) as pool:  # workspaces may be far away
            for number, _ in enumerate(pool.map(self._recover, wrong)):
                if number % _READERS == 0:
                    self.queue.rebuild()

    def _settled(self, job_ids: set[str]) -> set[str]:
        """Which of these jobs have ended and lack no selection, by what Redis knows and the folders there are."""
        ids, settled = sorted(job_ids), set[str]()
        for start in range(0, len(ids), _PIECE):
            piece = ids[start : start + _PIECE]
            for job_id, state in zip(piece, self.queue.states(piece), strict=True):
                if state is not None and state.view["outcome"] is not None:
                    made = len(state.view["selections"])
                    if state.status != "succeeded" or made == self.workspace.selections(job_id):
                        settled.add(job_id)
        return settled

    def _recover(self, job_id: str) -> None:
        try:
            self.advance(job_id)
        except (InputError, ValueError, KeyError, FileNotFoundError) as error:  # one bad folder stops no other
            log.warning("job %s cannot go on: %s", job_id, error)

    # -- inside
    def _record(self, job_id: str) -> JobRecord:
        record = self.workspace.job(job_id)
        if record is None:
            raise UnknownJob(job_id)
        return record

    def _end(self, job_id: str, status: Ended, problem: Problem | None = None) -> Ended:
        """Ends a job on storage, then in Redis; the status that stands."""
        outcome = self.workspace.outcome(job_id)
        if outcome is None:
            record = self._record(job_id)
            view = make_view(self.workspace, record)
            state = self.queue.state(job_id)
            progress = progress_of(state, view) if state else Progress()
            progress.updated_at, progress.eta_seconds = _now(), None
            results = self.workspace.results(job_id)
            if status == "succeeded" and results is not None:
                progress = progress.model_copy(update=results["progress"])
            outcome = self.workspace.end(
                job_id,
                Outcome(
                    status=status,
                    started_at=started_at(state, view),
                    finished_at=_now(),
                    progress=progress,
                    error=problem,
                ),
            )
        record = self._record(job_id)
        self.queue.end(job_id, outcome.status, make_view(self.workspace, record))
        self._sweep(record)
        return outcome.status

    def _sweep(self, record: JobRecord) -> None:
        """Removes what workers that were killed left of a job."""
        self.workspace.storage.sweep(self.workspace.folder(record.id))
        reference = self.workspace.known_reference(record.id)
        if reference is not None:
            self.workspace.storage.sweep(f"scores/{score_key(record, reference)}")


def _micros(when: datetime) -> int:
    return round(when.timestamp() * 1_000_000)


def _now() -> datetime:
    return datetime.now(timezone.utc)

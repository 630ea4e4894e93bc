"""Retention: jobs that ended long ago and scores that no job waits for go, by age and by size; and half files do."""

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from redis import RedisError

from service.jobs.steps import known_score_paths
from service.queue.leases import Queue, connect
from service.run import subprocesses as child
from service.run.settings import RetentionPolicy, Settings
from service.store.workspace import Workspace

log = logging.getLogger("winnow.retention")
_PASS_SECONDS = 600.0  # between passes of a service
_DAY = 86_400.0
_HALF_A_JOB = 3_600.0  # seconds after which a job's folder with no job in it is what a killed service left


@dataclass
class Removed:
    """What went, and the bytes of jobs and scores that are left."""

    jobs: int = 0
    scores: int = 0
    half_files: int = 0
    bytes: int = 0
    left: int = 0


@dataclass(frozen=True)
class _Item:
    """An ended job, or a score file or a half training that nobody waits for: since when, in seconds since 1970."""

    since: float
    size: int
    path: str
    job: str | None = None


def clean(workspace: Workspace, keep: RetentionPolicy, forget: Callable[[str], None]) -> Removed:
    """Removes what is too old, then the oldest until the rest fits. `forget` is told of each job that went.

    Jobs that have not ended stay, and so do the scores that they are made of. Raises OSError as the storage does.
    """
    removed, now = Removed(half_files=workspace.storage.sweep()), time.time()
    needed, trained = set[str](), set[str]()
    items: list[_Item] = []
    for job_id in workspace.jobs():
        files = list(workspace.storage.files(workspace.folder(job_id)))
        size = sum(file.size for file in files)
        removed.left += size
        try:
            record, outcome = workspace.job(job_id), workspace.outcome(job_id)
        except ValueError as error:  # one that cannot be read is left, and keeps no other from going
            log.warning("job %s cannot be read: %s", job_id, error)
            continue
        if record is None:
            if now - max((file.modified for file in files), default=now) > _HALF_A_JOB:
                items.append(_Item(0.0, size, workspace.folder(job_id), job_id))
        elif outcome is None:
            needed |= set(known_score_paths(workspace, record))
            plan = workspace.plan_record(job_id)
            trained |= {plan.trained} if plan is not None and plan.trained is not None else set()
        else:
            items.append(_Item(outcome.finished_at.timestamp(), size, workspace.folder(job_id), job_id))
    for file in workspace.storage.files("scores"):
        removed.left += file.size
        if file.path not in needed:
            items.append(_Item(file.modified, file.size, file.path))
    for name in workspace.storage.list("training"):  # the state of one that was cancelled or failed is left there
        files = list(workspace.storage.files(f"training/{name}"))
        size = sum(file.size for file in files)
        removed.left += size
        if name not in trained:
            items.append(_Item(max((file.modified for file in files), default=now), size, f"training/{name}"))
    for item in sorted(items, key=lambda item: item.since):
        old = item.since == 0.0 or (keep.days is not None and item.since < now - keep.days * _DAY)
        if old or (keep.bytes is not None and removed.left > keep.bytes):
            _remove(workspace, item, forget)
            removed.left -= item.size
            removed.bytes += item.size
            removed.jobs += item.job is not None
            removed.scores += item.path.startswith("scores/")
    return removed


def _remove(workspace: Workspace, item: _Item, forget: Callable[[str], None]) -> None:
    if item.path.startswith("scores/"):
        workspace.storage.remove(item.path)
        return
    if item.job is not None:
        # First: a store elsewhere loses a folder file by file, and a job without its outcome would begin again.
        workspace.storage.remove(workspace.path(item.job, "job.json"))
    workspace.storage.remove_tree(item.path)
    if item.job is not None:
        forget(item.job)


class Housekeeper:
    """A thread of a service that has its workspace cleaned now and again, by processes that leave no memory behind."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._over = threading.Event()

    def start(self) -> None:
        """Starts it; it holds up no end of the process, and its own ends with it."""
        threading.Thread(target=self._work, name="housekeeper", daemon=True).start()

    def stop(self) -> None:
        """Tells it to start no other pass."""
        self._over.set()

    def _work(self) -> None:
        command = child.python("from service.run.retention import main; main()")
        while not self._over.wait(_PASS_SECONDS):
            child.start(command, death_signal=signal.SIGKILL, env=self._settings.environment()).wait()


def main() -> None:
    """One pass over the workspace of a service that runs: its settings are in the environment."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    settings = Settings()
    workspace = Workspace(settings.workspace)
    queue = Queue(connect(settings.redis or ""), workspace.id)
    try:
        removed = clean(workspace, settings.retention, queue.forget)
        if removed.jobs or removed.scores:
            log.warning("removed %d jobs and %d score files", removed.jobs, removed.scores)
    except (RedisError, OSError, ValueError) as error:
        log.warning("cannot clean the workspace: %s", error)

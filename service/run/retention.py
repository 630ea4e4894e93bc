"""Deletes ended jobs, unreferenced artefacts and stale partial files, by age and total size."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from redis import RedisError

from pruner.errors import InputError
from service.jobs.graph import Graph
from service.kinds import KINDS, ablation, export
from service.kinds.job_files import JobFiles
from service.kinds.node import ShardPaths
from service.queue.leases import Queue, connect
from service.run import subprocesses as child
from service.run.settings import RetentionPolicy, Settings
from service.store.workspace import Workspace

log = logging.getLogger("winnow.retention")
_PASS_SECONDS = 600.0  # between passes of a service
_DAY = 86_400.0
_HALF_A_JOB = 3_600.0  # seconds after which a job's folder without job.json is taken for that of a killed service
_SHARED = ("documents", "scores", "prior", "classifier", "field")  # kinds whose parts are files that jobs share


@dataclass
class Removed:
    """What was removed, and the bytes of jobs and artefacts that are left."""

    jobs: int = 0
    scores: int = 0
    half_files: int = 0
    bytes: int = 0
    left: int = 0


@dataclass(frozen=True)
class _Item:
    """What may be removed: since when it is of no use (seconds since 1970), its bytes, and its files and folders."""

    since: float
    size: int
    paths: list[str]
    job: str | None = None


class _Ended(NamedTuple):
    """A job that has ended."""

    since: float  # seconds since 1970
    job: str
    results: set[str]  # folders


@dataclass
class _Jobs:
    """What is known of all jobs."""

    needed: set[str] = field(default_factory=set)  # files and folders of jobs that have work left
    ended: list[_Ended] = field(default_factory=list)
    abandoned: list[_Item] = field(default_factory=list)  # folders that killed services left
    all_read: bool = True


def clean(workspace: Workspace, keep: RetentionPolicy, forget: Callable[[str], None]) -> Removed:
    """Removes what is too old, then the oldest until the rest fits. `forget` is called for each job that was removed.

    Jobs that have not ended stay, with all that they are made of, and so do those of which an export or an ablation
    is under way. Another job goes with its results, as far as no other one has the same. Raises OSError as the storage
    does.
    """
    removed, now = Removed(half_files=workspace.storage.sweep()), time.time()
    sizes, modified_at = _artefacts(workspace)  # before jobs are read: what they make meanwhile stays
    items = _items(workspace, _read_jobs(workspace, now), sizes, modified_at)
    removed.left = sum(sizes.values()) + sum(file.size for file in workspace.storage.files("jobs"))
    for item in sorted(items, key=lambda item: item.since):
        old = item.since == 0.0 or (keep.days is not None and item.since < now - keep.days * _DAY)
        if old or (keep.bytes is not None and removed.left > keep.bytes):
            _remove(workspace, item, forget)
            removed.left -= item.size
            removed.bytes += item.size
            removed.jobs += item.job is not None
            removed.scores += item.paths[0].startswith("scores/")
    return removed


def _is_at_work(job: JobFiles) -> bool:
    """Whether a job that has ended was asked for an export or an ablation that is not made, and has not failed."""
    exports = any(export.find(job, wanted) is None for wanted in job.exports)
    return exports or any(ablation.find(job, wanted) is None for wanted in job.ablations)


def _read_jobs(workspace: Workspace, now: float) -> _Jobs:
    jobs = _Jobs()
    for job_id in workspace.jobs():
        files = list(workspace.storage.files(workspace.folder(job_id)))
        try:
            record, outcome = workspace.job(job_id), workspace.outcome(job_id)
            if record is None:
                modified = max((file.modified for file in files), default=now)
                if now - modified > _HALF_A_JOB:
                    size = sum(file.size for file in files)
                    jobs.abandoned.append(_Item(0.0, size, [workspace.folder(job_id)], job_id))
                continue
            job = JobFiles(workspace, record)
            if outcome is None or _is_at_work(job):
                jobs.needed |= _results(job) | _parts(job)
            else:
                jobs.ended.append(_Ended(outcome.finished_at.timestamp(), job_id, _results(job)))
        except (ValueError, InputError, FileNotFoundError) as error:  # it is left, and others are removed
            log.warning("job %s cannot be read: %s", job_id, error)
            jobs.all_read = False
    return jobs


def _items(
    workspace: Workspace, jobs: _Jobs, sizes: Mapping[str, int], modified_at: Mapping[str, float]
) -> list[_Item]:
    """What may be removed. `sizes` and `modified_at` are those of `_artefacts`."""
    items, owned = list(jobs.abandoned), set(jobs.needed)
    for since, job_id, results in sorted(jobs.ended, reverse=True):  # a result goes with the last job that has it
        own = results - owned
        owned |= results
        size = sum(file.size for file in workspace.storage.files(workspace.folder(job_id)))
        paths = [workspace.folder(job_id), *sorted(own)]
        items.append(_Item(since, size + sum(sizes.get(path, 0) for path in own), paths, job_id))
    for path, size in sizes.items():
        # What can be made again goes; the rest may belong to a job that could not be read.
        if path not in owned and (jobs.all_read or path.partition("/")[0] in _SHARED):
            items.append(_Item(modified_at[path], size, [path]))
    return items


def _results(job: JobFiles) -> set[str]:
    """The folders of a job's results: all artefacts but the parts of shards, which can be made again."""
    folders = {_folder(job.plan_path)} if job.corpus is not None else set[str]()
    if job.model_path is not None:
        name = job.model_path.split("/")[1]
        folders |= {f"model/{name}", f"training/{name}"}
    for node in Graph(job).nodes.values():
        if not isinstance(node.paths, ShardPaths):
            folders |= {_artefact(path) for path in node.paths if not path.startswith("jobs/")}
    return folders


def _folder(path: str) -> str:
    """The folder of the artefact that has a file: `<kind>/<key>`."""
    return "/".join(path.split("/")[:2])


def _artefact(path: str) -> str:
    """What is kept or removed with a file: its folder, or it alone where jobs share the parts of a folder."""
    return path if path.partition("/")[0] in _SHARED else _folder(path)


def _parts(job: JobFiles) -> set[str]:
    """The parts of shards that a job is made of."""
    paths = [node.paths for node in Graph(job).nodes.values() if isinstance(node.paths, ShardPaths)]
    return {path for some in paths for path in some}


def _artefacts(workspace: Workspace) -> tuple[dict[str, int], dict[str, float]]:
    """Bytes and last change of each artefact: a folder, or a file where jobs share the parts of a folder."""
    sizes: dict[str, int] = {}
    modified: dict[str, float] = {}
    for kind in (*KINDS, "training"):
        for file in workspace.storage.files(kind):
            path = _artefact(file.path)
            sizes[path] = sizes.get(path, 0) + file.size
            modified[path] = max(modified.get(path, 0.0), file.modified)
    return sizes, modified


def _remove(workspace: Workspace, item: _Item, forget: Callable[[str], None]) -> None:
    if item.job is not None:
        # First: a store elsewhere loses a folder file by file, and a job without its outcome would begin again.
        workspace.storage.remove(workspace.path(item.job, "job.json"))
    for path in item.paths:
        if path.partition("/")[0] in _SHARED:
            workspace.storage.remove(path)
        else:
            workspace.storage.remove_tree(path)
    if item.job is not None:
        forget(item.job)


class Housekeeper:
    """A thread of a service that starts a cleaning process now and then."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._over = threading.Event()

    def start(self) -> None:
        """Starts the thread, a daemon; its processes end with this one."""
        threading.Thread(target=self._work, name="housekeeper", daemon=True).start()

    def stop(self) -> None:
        """Starts no other pass."""
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

"""A worker of a pool as a process: signals, score requests, and waiting while Redis is away."""

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

from redis import RedisError

from scorer.engine.model_loader import ModelLoader
from service.contract.names import Resource
from service.contract.schemas import Problem
from service.jobs.jobs import Jobs
from service.kinds.job_files import JobFiles
from service.kinds.model_files import load
from service.kinds.pool_gpus import PoolGpus
from service.queue.tasks import LeaseLost
from service.work import score_now
from service.work.heartbeat import Stopping
from service.work.worker import Worker, one_line

log = logging.getLogger("winnow.worker")
_IDLE_SECONDS = 0.2  # between looks at an empty queue
_AWAY_SECONDS = 1.0  # between tries while Redis or the workspace is away
_LEAVE_SECONDS = 1.5  # for the batch at hand when the worker is told to stop
_RELEASE_SECONDS = 0.3  # and then to give its tasks back


class PoolWorker:
    """A Worker on Redis, until SIGTERM or SIGINT."""

    def __init__(
        self,
        jobs: Jobs,
        models: ModelLoader,
        resources: Sequence[Resource],
        name: str,
        alive: Path | None = None,
        gpus: PoolGpus | None = None,
    ) -> None:
        self._jobs, self._models, self._resources = jobs, models, resources
        self.worker = Worker(jobs.lifecycle, models, resources, name, between=self._between, alive=alive, gpus=gpus)
        self._told: SimpleQueue[None] = SimpleQueue()  # the only lock that a signal handler may take
        self._over = threading.Event()

    def listen(self) -> None:
        """Stops at SIGTERM and SIGINT.

        Python runs a handler when the main thread is back from what it calls, such as the loading of a model, which
        may take seconds. So a thread reads the signals from a pipe, and the time to leave counts from their arrival.
        """
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        threading.Thread(target=self._stop_when_signalled, args=(read,), daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Ends `run` after the batch at hand; a signal handler."""
        self.worker.stopping = True
        self._told.put(None)

    def run(self) -> None:
        """Works until it is stopped."""
        threading.Thread(target=self._leave_in_time, daemon=True).start()
        self.warm_up()
        while not self.worker.stopping:
            self.worker.heartbeat.show_life()
            try:
                if not self.once():
                    time.sleep(_IDLE_SECONDS)
            except Stopping:
                break
            except (RedisError, OSError) as error:
                # A lease still held expires at its deadline.
                log.warning("waiting for Redis and the workspace: %s", error)
                time.sleep(_AWAY_SECONDS)
        self.worker.release_ahead()
        self._over.set()
        self._told.put(None)

    def once(self) -> bool:
        """Rebuilds Redis if it has lost its data, and runs a task, if there is one."""
        self._jobs.check()
        return self.worker.once()

    def warm_up(self) -> None:
        """Loads what the first task will probably need, so that no lease waits for it."""
        if "gpu" not in self._resources:
            return
        try:
            self._models.warm_up()
            for job_id in self._jobs.queue.labelled("open")[:1]:
                record = self._jobs.workspace.job(job_id)
                model = None if record is None else JobFiles(self._jobs.workspace, record).model
                if record is not None and model is not None:
                    load(self._models, self._jobs.workspace, model, record.request.scoring.dtype)
        except Exception as error:  # the task that needs it fails with it, under its lease
            log.info("not warm: %s", error)

    def _between(self) -> None:
        """Answers score requests."""
        if "gpu" not in self._resources:
            return
        with suppress(RedisError):
            while (taken := self._jobs.score_requests.take()) is not None:
                failed: Exception | None = None
                try:
                    found = score_now.answer(self._jobs.workspace, self._models, taken.request, taken.access)
                except Exception as error:
                    log.warning("texts could not be scored", exc_info=True)
                    failed, detail = error, f"the worker failed: {one_line(error)}"
                    found = Problem(title="The texts cannot be scored", status=500, detail=detail)
                self._jobs.score_requests.give(taken.id, found)
                if failed is not None and self._models.on_gpu:
                    raise SystemExit(1) from failed  # a CUDA error stays with its process

    def _stop_when_signalled(self, pipe: int) -> None:
        os.read(pipe, 1)
        self.stop()

    def _leave_in_time(self) -> None:
        """Watchdog: if the worker has not stopped in time (a hung batch, load or Redis), releases its tasks and exits.

        All files appear whole or not at all, so the process may end anywhere.
        """
        self._told.get()
        if self._over.wait(_LEAVE_SECONDS):
            return
        thread = threading.Thread(target=self._release_all, daemon=True)
        thread.start()
        thread.join(_RELEASE_SECONDS)
        os._exit(0)

    def _release_all(self) -> None:
        for beat in self.worker.heartbeat.held:
            with suppress(LeaseLost, RedisError):
                self._jobs.queue.release(beat.lease)

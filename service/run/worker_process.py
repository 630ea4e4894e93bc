"""`winnow worker`, and the workers that `winnow serve` starts: a PoolWorker made from the settings."""

import logging
import os
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path

from scorer.engine.model_loader import ModelLoader
from service.jobs.jobs import Jobs
from service.kinds.model_files import cache_folder
from service.kinds.pool_gpus import PoolGpus
from service.queue.leases import connect
from service.run.settings import Settings
from service.store.workspace import Workspace, digest
from service.work.pool_worker import PoolWorker

_NICE = 10  # of a worker beside the API, which must answer at once on the same cores


def run(settings: Settings, name: str | None = None, gpus: Sequence[str] = ()) -> None:
    """Works until SIGTERM or SIGINT. Raises InputError for settings that are wrong.

    `gpus` are those of the pool on this host, the worker's own first, as CUDA_VISIBLE_DEVICES names them.
    """
    workspace = Workspace(settings.workspace)
    locks = cache_folder() / "gpus" / digest(workspace.storage.url)
    worker = PoolWorker(
        Jobs(workspace, connect(settings.redis or ""), settings.lease_seconds),
        ModelLoader(settings.device),
        settings.resources,
        name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
        Path(settings.alive_file) if settings.alive_file is not None else None,
        PoolGpus(locks, gpus[0], gpus[1:]) if len(gpus) > 1 else None,
    )
    worker.listen()
    worker.run()


def main(name: str, gpus: Sequence[str] = ()) -> None:
    """A worker that `winnow serve` starts: its settings are in the environment."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    os.nice(_NICE)
    run(Settings(), name, gpus)

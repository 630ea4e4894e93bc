"""`winnow worker`, and the workers that `winnow serve` starts: a PoolWorker made from the settings."""

import logging
import os
import socket
import uuid
from pathlib import Path

from scorer.engine.model_loader import ModelLoader
from service.jobs.jobs import Jobs
from service.queue.leases import connect
from service.run.settings import Settings
from service.store.workspace import Workspace
from service.work.pool_worker import PoolWorker

_NICE = 10  # of a worker beside the API, which must answer at once on the same cores


def run(settings: Settings, name: str | None = None) -> None:
    """Works until SIGTERM or SIGINT. Raises InputError for settings that are wrong."""
    workspace = Workspace(settings.workspace)
    worker = PoolWorker(
        Jobs(workspace, connect(settings.redis or ""), settings.lease_seconds),
        ModelLoader(settings.device),
        settings.resources,
        name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
        Path(settings.alive_file) if settings.alive_file is not None else None,
    )
    worker.listen()
    worker.run()


def main(name: str) -> None:
    """A worker that `winnow serve` starts: its settings are in the environment."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    os.nice(_NICE)
    run(Settings(), name)

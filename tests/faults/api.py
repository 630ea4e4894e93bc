"""The API alone, as a process over a Redis and a workspace."""

import uvicorn

from service.jobs.jobs import Jobs
from service.queue.leases import connect
from service.run.app import create_app
from service.store.workspace import Workspace


def main(workspace: str, redis: str, port: int) -> None:
    """Serves until the process ends."""
    uvicorn.run(create_app(Jobs(Workspace(workspace), connect(redis))), port=port, log_level="warning")

"""The API alone, as a process over a Redis and a workspace: `python -m tests.faults.api WORKSPACE REDIS PORT`."""

import sys

import uvicorn

from service.jobs.jobs import Jobs
from service.queue.leases import connect
from service.run.app import create_app
from service.store.workspace import Workspace

if __name__ == "__main__":
    workspace, redis, port = sys.argv[1:]
    uvicorn.run(create_app(Jobs(Workspace(workspace), connect(redis))), port=int(port), log_level="warning")

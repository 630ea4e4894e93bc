"""What the endpoints share: the jobs, and the check that a body is JSON."""

from typing import Annotated

from fastapi import Depends, Path, Request
from starlette.exceptions import HTTPException

from service.jobs import Jobs


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


def json_body(request: Request) -> None:
    """Refuses a body of another type, which would be read as no object at all. Raises HTTPException."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise HTTPException(415, "send the body as JSON, with the header Content-Type: application/json")


JobsOf = Annotated[Jobs, Depends(_jobs)]
JobId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="A job's id.")]

"""FastAPI dependencies of the endpoints: the jobs, the caller, the read rules, and checks of job ids and bodies."""

from typing import Annotated

from fastapi import Depends, Path, Request
from starlette.exceptions import HTTPException

from service.contract.permissions import Rules
from service.http.auth import LOCAL_CALLER, Caller
from service.jobs.jobs import Jobs, UnknownJob


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


def json_body(request: Request) -> None:
    """Raises HTTPException (415) for a body that is not declared as JSON, which FastAPI would not parse."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise HTTPException(415, "send the body as JSON, with the header Content-Type: application/json")


def _caller(request: Request) -> Caller:
    caller: Caller = getattr(request.state, "caller", LOCAL_CALLER)
    return caller


def _rules(request: Request) -> Rules:
    rules: Rules = request.app.state.rules
    return rules


JobsOf = Annotated[Jobs, Depends(_jobs)]
CallerOf = Annotated[Caller, Depends(_caller)]
RulesOf = Annotated[Rules, Depends(_rules)]


def own_job(
    job_id: Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="A job's id.")],
    jobs: JobsOf,
    caller: CallerOf,
) -> str:
    """The id of a job that the caller may see. Raises UnknownJob for other owners' jobs too, not to reveal them."""
    if not caller.sees_all and not caller.sees(jobs.owner(job_id)):
        raise UnknownJob(job_id)
    return job_id


JobId = Annotated[str, Depends(own_job)]

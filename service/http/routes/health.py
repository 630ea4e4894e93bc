"""Whether the service lives, whether it can work, and its metrics."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis import RedisError
from starlette.exceptions import HTTPException

from service.http.dependencies import JobsOf
from service.http.problems import RETRY_AFTER, responses

router = APIRouter(tags=["health"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def check_health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=responses())
def check_readiness(jobs: JobsOf) -> dict[str, str]:
    """Redis and the workspace answer too."""
    try:
        jobs.queue.epoch()
        jobs.workspace.storage.exists("workspace.json")
    except (RedisError, OSError) as error:
        what = "Redis" if isinstance(error, RedisError) else "the workspace"
        raise HTTPException(503, f"{what} does not answer", RETRY_AFTER) from None
    return {"status": "ready"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)

"""The HTTP API. It holds no state of its own: several of it may run side by side over one workspace and Redis."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry

import service
from service import problems
from service.jobs import Jobs
from service.metrics import Metrics, QueueCollector
from service.page import pages
from service.page.signin import SignIn
from service.routes import events, explore, files, health, jobs, selections
from service.schemas import Problem

_ABOUT = """Prunes pretraining corpora by the perplexity of a small reference model.

Submit a job with `POST /v1/jobs`, follow it, download its manifests. Errors are RFC 9457 problems."""


def create_app(the_jobs: Jobs) -> FastAPI:
    """The application over these jobs."""
    app = FastAPI(
        title="Winnow",
        version=service.__version__,
        summary="Corpora in, manifests out",
        description=_ABOUT,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    app.state.jobs = the_jobs
    app.state.registry = CollectorRegistry()
    app.state.registry.register(QueueCollector(the_jobs))
    for part in (jobs, selections, files, events, explore, health, pages):
        app.include_router(part.router)
    problems.install(app)
    app.add_middleware(problems.BodyLimit)
    app.add_middleware(SignIn)
    app.add_middleware(Metrics, registry=app.state.registry)
    _describe_problems(app)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _describe_problems(app: FastAPI) -> None:
    """Puts the model of problems into the OpenAPI document in the place of the framework's validation errors."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made()
            schemas = schema["components"]["schemas"]
            schemas["Problem"] = Problem.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            validation = problems.responses(422)[422]
            for path in schema["paths"].values():
                for operation in path.values():
                    if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                        operation["responses"]["422"] = validation
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]

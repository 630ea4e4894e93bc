"""The HTTP API. It holds no state of its own: several of it may run side by side over one workspace and Redis."""

from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, ProcessCollector

import service
from service.contract.permissions import Rules
from service.contract.schemas import Problem
from service.http import problems
from service.http.auth import PUBLIC_PATHS, AuthMiddleware
from service.http.keys import Keys
from service.http.metrics import QueueCollector
from service.http.middleware import BodyLimit, RequestMetrics
from service.http.routes import ablations, corpora, events, explore, exports, files, health, jobs, score, selections
from service.jobs.jobs import Jobs
from service.page import pages
from service.page.signin import SignInMiddleware

_ABOUT = """Prunes pretraining corpora by the perplexity of a small reference model.

Submit a job with `POST /v1/jobs`, follow it, download its manifests. Errors are RFC 9457 problems."""


def create_app(the_jobs: Jobs, rules: Rules | None = None, *, always_keys: bool = False) -> FastAPI:
    """The application over these jobs, which may read what the rules say. With `always_keys` every request needs a
    key; else a caller on this machine may, as long as no key was ever made.
    """
    app = FastAPI(
        title="Winnow",
        version=service.__version__,
        summary="Corpora in, manifests out",
        description=_ABOUT,
        docs_url=None,  # the page has it: FastAPI's own takes its files from another host
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.jobs = the_jobs
    app.state.rules = rules or Rules()
    app.state.registry = CollectorRegistry()
    app.state.registry.register(QueueCollector(the_jobs))
    ProcessCollector(registry=app.state.registry)
    parts = (jobs, selections, files, exports, ablations, events, explore, score, corpora, health, pages)
    app.state.routes = [route for part in parts for route in part.router.routes]
    for part in parts:
        app.include_router(part.router)
    problems.install(app)
    pages.install_error_pages(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(AuthMiddleware, keys=Keys(the_jobs.workspace.storage), always_keys=always_keys)
    app.add_middleware(SignInMiddleware)
    app.add_middleware(RequestMetrics, registry=app.state.registry)
    _describe_problems(app)
    return app


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
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            validation = problems.responses(422)[422]
            for name, path in schema["paths"].items():
                for operation in path.values():
                    if name not in PUBLIC_PATHS:
                        operation["security"] = [{"key": []}]
                        operation["responses"] |= {str(k): v for k, v in problems.responses(401, 403).items()}
                    if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                        operation["responses"]["422"] = validation
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]

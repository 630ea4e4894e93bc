"""The API page: Swagger UI, as FastAPI's own page has it, with its files served from here and not from another host."""

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from service.page.render import HEADERS, STATIC_HEADERS, page_response

router = APIRouter(include_in_schema=False)
_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
# Its style sheet has images inside.
_HEADERS = HEADERS | {
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace("img-src 'self'", "img-src 'self' data:")
}


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The documentation of the API."""
    answer = page_response("api_docs.html", openapi=request.app.openapi())
    answer.headers.update(_HEADERS)
    return answer


@router.get("/static/swagger/{name}")
async def swagger(name: str) -> Response:
    """A file of Swagger UI."""
    if name not in _TYPES:
        raise HTTPException(404)
    return FileResponse(_folder() / name, media_type=_TYPES[name], headers=STATIC_HEADERS)


def _folder() -> Path:
    """The files that the package fastapi-offline holds; of the package itself nothing is used."""
    found = find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise HTTPException(503, "the package fastapi-offline is not installed: run pip install fastapi-offline")
    return Path(found.origin).parent / "static"

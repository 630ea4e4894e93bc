"""Rendering of templates: with HTML escaping, and headers that restrict a page to this service's own files."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import service
from service.page import format as formats

FOLDER = Path(__file__).parent
STATIC_TYPES = {
    "winnow.css": "text/css",
    "winnow.js": "text/javascript",
    "api.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
STATIC_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "public, max-age=86400"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FILTERS = (
    *("number", "compact", "percent", "perplexity", "percentile", "change", "ratio", "score_value"),
    *("duration", "hours", "age", "time", "utc", "html", "html_short", "setting"),
)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(formats, name) for name in _FILTERS})
    environment.globals.update(version=service.__version__, static=_static_url)
    return environment


@cache
def _static_url(name: str) -> str:
    """The URL of a static file, with a digest of its content so that browsers reload it when it changes."""
    return f"/static/{name}?{hashlib.sha256((FOLDER / 'static' / name).read_bytes()).hexdigest()[:12]}"


_TEMPLATES = _environment()


def render(template: str, **values: Any) -> str:
    """The text of a template with these values."""
    return _TEMPLATES.get_template(template).render(**values)


def page_response(template: str, status: int = 200, **values: Any) -> Response:
    """An HTML answer with the text of a template."""
    return Response(render(template, **values), status, HEADERS, "text/html; charset=utf-8")

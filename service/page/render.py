"""Templates into answers: everything escaped, and headers that let a page use this service's own files alone."""

import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import service
from service.page import format as words

HERE = Path(__file__).parent
STATIC = {"winnow.css": "text/css", "winnow.js": "text/javascript", "icon.svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = (
        "number",
        "short",
        "percent",
        "perplexity",
        "ratio",
        "duration",
        "span",
        "hours",
        "age",
        "moment",
        "shown",
        "brief",
    )
    made.filters.update({name: getattr(words, name) for name in names})
    made.filters["time"] = lambda text: datetime.fromisoformat(text)
    made.globals.update(version=service.__version__, static=_static_address)
    return made


@cache
def _static_address(name: str) -> str:
    """The address of a file of ours, another when it changes."""
    return f"/static/{name}?{hashlib.sha256((HERE / 'static' / name).read_bytes()).hexdigest()[:12]}"


_TEMPLATES = _environment()


def text(template: str, **values: Any) -> str:
    """A template with its values."""
    return _TEMPLATES.get_template(template).render(**values)


def page(template: str, status: int = 200, headers: dict[str, str] | None = None, **values: Any) -> Response:
    """A template as an answer."""
    body = text(template, **values)
    return Response(body, status, HEADERS | (headers or {}), "text/html; charset=utf-8")

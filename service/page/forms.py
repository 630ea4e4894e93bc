"""The forms of the page: what a browser posts, as the JSON that the API takes, and back."""

import math
from typing import Any
from urllib.parse import parse_qs

from fastapi import Request

from service.http.auth import is_cross_origin

Form = dict[str, list[str]]
_NUMBERS = {"tokens": int, "fraction": float, "seed": int}


class CrossSite(Exception):
    """A form was posted from another site."""


async def posted(request: Request) -> Form:
    """The fields of a form. Raises CrossSite unless a page of this service posted it, by the browser's own word."""
    said = "origin" in request.headers or "sec-fetch-site" in request.headers
    if not said or is_cross_origin(request.headers):
        raise CrossSite
    return parse_qs((await request.body()).decode(errors="replace"), keep_blank_values=True)


def first(form: Form, name: str, default: str = "") -> str:
    """The first value of a field, without space around it."""
    return form.get(name, [default])[0].strip()


def job_body(form: Form) -> dict[str, Any]:
    """The request that the form of a new job stands for. What is wrong in it is for the API to say."""
    corpus: dict[str, Any] = {"paths": [line.strip() for line in first(form, "paths").splitlines() if line.strip()]}
    for name in ("text_field", "id_field", "domain_field"):
        if value := first(form, name):
            corpus[name] = value
    reference: dict[str, Any] = {"model": first(form, "model")}
    if first(form, "reference") != "model":
        train: dict[str, Any] = {"preset": first(form, "preset", "tiny")}
        for name, kind in _NUMBERS.items():
            if value := first(form, name):
                train[name] = _number(value, kind)
        reference = {"train": train}
    body: dict[str, Any] = {"corpus": corpus, "reference": reference, "selections": _selections(form)}
    scoring: dict[str, Any] = {"dtype": first(form, "dtype", "auto")}
    if value := first(form, "stride"):
        scoring["stride"] = _number(value, int)
    return body | {"scoring": scoring}


def _selections(form: Form) -> list[dict[str, Any]]:
    rates = first(form, "rates").replace(",", " ").split()
    shared: dict[str, Any] = {"unit": first(form, "unit", "documents")}
    if first(form, "within"):
        shared["within"] = "domain"
    return [
        {"criterion": criterion, "rate": _rate(rate), **shared}
        for criterion in form.get("criterion", [])
        for rate in rates
    ]


def selection_body(form: Form) -> dict[str, Any]:
    """The selection that a form of the explorer stands for."""
    body: dict[str, Any] = {"criterion": first(form, "criterion"), "rate": _rate(first(form, "rate"))}
    body["unit"] = first(form, "unit", "documents")
    return body | ({"within": "domain"} if first(form, "within") else {})


def _rate(text: str) -> Any:
    """A share; `25%` is 0.25."""
    if text.endswith("%"):
        share = _number(text[:-1].strip(), float)
        return round(share / 100, 12) if isinstance(share, float) else text
    return _number(text, float)


def _number(text: str, kind: Any) -> Any:
    """A number, or the text where it is none, for the API to refuse."""
    try:
        value = float(text.replace(",", "").replace("_", ""))
        return kind(value) if math.isfinite(value) else text
    except ValueError:
        return text

"""The forms of the page, converted to the JSON requests of the API."""

import math
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import Depends, Request

from service.http.auth import is_cross_origin

Form = dict[str, list[str]]
_FIELDS = ("text_field", "id_field", "domain_field")
LIMITS = ("at_least", "at_most")
_TRAINING_NUMBERS = {"tokens": int, "fraction": float, "seed": int}


class CrossOriginForm(Exception):
    """A form was posted from another site."""


async def read_form(request: Request) -> Form:
    """The fields of a posted form. Raises CrossOriginForm unless the browser's headers say that it came from here."""
    has_origin = "origin" in request.headers or "sec-fetch-site" in request.headers
    if not has_origin or is_cross_origin(request.headers):
        raise CrossOriginForm
    return parse_qs((await request.body()).decode(errors="replace"), keep_blank_values=True)


PostedForm = Annotated[Form, Depends(read_form)]


def first_value(form: Form, name: str, default: str = "") -> str:
    """The first value of a field, without surrounding whitespace."""
    return form.get(name, [default])[0].strip()


def with_suggestion(form: Form) -> Form:
    """The form with the field that its button suggests: the button's value comes after the one typed."""
    return form | {name: form[name][-1:] for name in _FIELDS if name in form}


def corpus_request(form: Form) -> dict[str, Any]:
    """The corpus of the form for a new job. The API checks the values."""
    corpus: dict[str, Any] = {"paths": [s for line in first_value(form, "paths").splitlines() if (s := line.strip())]}
    for name in _FIELDS:
        if value := first_value(form, name):
            corpus[name] = value
    for name in ("include", "exclude"):
        if globs := first_value(form, name).split():
            corpus[name] = globs
    return corpus


def job_request(form: Form) -> dict[str, Any]:
    """The request of the form for a new job. The API checks the values."""
    reference: dict[str, Any] = {"model": first_value(form, "model")}
    if first_value(form, "reference") != "model":
        train: dict[str, Any] = {"preset": first_value(form, "preset", "tiny")}
        for name, kind in _TRAINING_NUMBERS.items():
            if value := first_value(form, name):
                train[name] = number(value, kind)
        reference = {"train": train}
    scoring: dict[str, Any] = {"dtype": first_value(form, "dtype", "auto")}
    if value := first_value(form, "stride"):
        scoring["stride"] = number(value, int)
    corpus, selections = corpus_request(form), _selections(form)
    request = {"corpus": corpus, "reference": reference, "selections": selections, "scoring": scoring}
    return request | ({"name": name} if (name := first_value(form, "name")) else {})


def _selections(form: Form) -> list[dict[str, Any]]:
    """Every criterion of the form at every rate."""
    rates = first_value(form, "rates").replace(",", " ").split()
    return [_selection(form, criterion, rate) for criterion in form.get("criterion", []) for rate in rates]


def selection_request(form: Form) -> dict[str, Any]:
    """The request of the button that makes the previewed selection."""
    if first_value(form, "criterion") == "threshold":
        limits = {name: number(value, float) for name in LIMITS if (value := first_value(form, name))}
        return {"stages": [{"score": first_value(form, "score")} | limits]}
    return _selection(form, first_value(form, "criterion"), first_value(form, "rate"))


def export_request(form: Form) -> dict[str, Any]:
    """The options of the form of an export. The API checks the values."""
    options = {"format": first_value(form, "format", "same"), "scores": bool(first_value(form, "scores"))}
    return options | {"out": first_value(form, "out") or None}


def ablation_request(form: Form) -> dict[str, Any]:
    """The options of the form of an ablation. The API checks the values."""
    options: dict[str, Any] = {"selection": form.get("selection", [])}
    for name in ("heldout", "tasks"):
        options[name] = [line.strip() for line in first_value(form, name).splitlines() if line.strip()]
    for name in ("preset", "regime"):
        if value := first_value(form, name):
            options[name] = value
    numbers = dict.fromkeys(("tokens", "seeds", "target_parameters", "target_tokens"), int)
    for name, kind in {**numbers, "budget": float}.items():
        if value := first_value(form, name):
            options[name] = number(value, kind)
    return options


def _selection(form: Form, criterion: str, rate: str) -> dict[str, Any]:
    """One selection; the form's order is for all criteria but random, the seed for random alone."""
    spec = {"criterion": criterion, "rate": share(rate), "unit": first_value(form, "unit", "documents")}
    if first_value(form, "within"):
        spec["within"] = "domain"
    seed = first_value(form, "random_seed")
    if criterion != "random" and first_value(form, "per"):
        spec["per"] = "byte"
    if criterion != "random" and first_value(form, "score"):
        spec["score"] = first_value(form, "score")
    if criterion == "random" and seed:
        spec["seed"] = int(seed) if seed.isascii() and seed.isdecimal() else seed
    return spec


def share(text: str) -> float | int | str:
    """A share; `25%` is 0.25."""
    if text.endswith("%"):
        percentage = number(text[:-1].strip(), float)
        return text if isinstance(percentage, str) else round(percentage / 100, 12)
    return number(text, float)


def number(text: str, kind: type[int] | type[float]) -> float | int | str:
    """A number, or the text itself if it is not one, so that the API's error names the field."""
    plain = text.replace(",", "").replace("_", "")
    if kind is int and plain.isascii() and plain.isdecimal():
        return int(plain)  # a seed may be larger than what a float holds exactly
    try:
        value = float(plain)
        return kind(value) if math.isfinite(value) else text
    except ValueError:
        return text

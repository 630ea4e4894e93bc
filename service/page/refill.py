"""The form of a new job, filled in as an earlier job was asked for."""

import json
from typing import Any

from pruner.spec import SelectionSpec
from service.contract.schemas import JobRequest
from service.page.format import number
from service.page.forms import Form, job_request

_SECTIONS = {
    "corpus": "the corpus",
    "reference": "the reference",
    "scores": "further scores",
    "scoring": "scoring options",
    "selections": "the selections",
    "priority": "the priority",
}  # of a request, in words


def refilled(request: dict[str, Any]) -> tuple[Form, list[str]]:
    """The fields of the form for a request, and in words the sections that the form would send otherwise."""
    corpus, scoring = request["corpus"], request["scoring"]
    values: dict[str, Any] = {"name": request["name"], "paths": "\n".join(corpus["paths"])}
    values |= {name: corpus[name] for name in ("text_field", "id_field", "domain_field")}
    values |= {name: " ".join(corpus[name] or ()) for name in ("include", "exclude")}
    values |= {"stride": scoring["stride"], "dtype": scoring["dtype"]}
    reference = request["reference"] or {}
    if reference.get("model") is not None:
        values |= {"reference": "model", "model": reference["model"]}
    else:
        values |= {"reference": "train"} | (reference.get("train") or {})
    if "tokens" in values:
        values["tokens"] = number(values["tokens"])
    form = {name: ["" if value is None else str(value)] for name, value in values.items()}
    plain = [each for each in request["selections"] if _is_plain(each)]
    form["criterion"] = list(dict.fromkeys(each["criterion"] for each in plain))
    form["rates"] = [", ".join(dict.fromkeys(str(each["rate"]) for each in plain))]
    for each in plain:
        form["unit"], form["within"] = [each["unit"]], [each["within"] or ""]
        if each.get("per"):
            form["per"] = [each["per"]]
        if each.get("seed"):
            form["random_seed"] = [str(each["seed"])]
    return form, _missing(request, form)


def _is_plain(selection: dict[str, Any]) -> bool:
    """Whether it has only fields of the form."""
    return all(selection.get(name) is None for name in ("score", "name", "stages", "difference", "rank_sum"))


def _missing(request: dict[str, Any], form: Form) -> list[str]:
    """The sections of a request that the filled form does not send as they are, in words."""
    made = job_request(form)
    if not made["selections"]:
        made.pop("selections")
    sent, before = (JobRequest.model_validate_json(json.dumps(each)).model_dump() for each in (made, request))
    for each in (sent, before):
        each["selections"] = sorted(SelectionSpec.model_validate(spec).id for spec in each["selections"])
    return [words for section, words in _SECTIONS.items() if sent[section] != before[section]]

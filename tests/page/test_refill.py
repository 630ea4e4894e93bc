"""The form of a new job as an earlier job filled it in: it sends the same request, or says what differs."""

from typing import Any

import pytest

from service.contract.schemas import JobRequest
from service.page.forms import job_request
from service.page.refill import refilled

CORPUS = {"paths": ["/data/a b.jsonl", "s3://bucket/*.parquet"], "id_field": "id", "domain_field": "meta.source"}
SAME: list[dict[str, Any]] = [
    {"corpus": {"paths": ["a"]}},
    {
        "name": "Old books",
        "corpus": CORPUS | {"text_field": "content", "include": ["*.jsonl", "b/**"], "exclude": ["*_removed/"]},
        "reference": {"train": {"preset": "mamba2-130m", "tokens": 5_000_000_000, "fraction": 0.25, "seed": 2**62 + 1}},
        "scoring": {"stride": 512, "dtype": "float32"},
        "selections": [
            {"criterion": c, "rate": r, "unit": "tokens", "within": "domain"}
            for c in ("low", "high")
            for r in (0.1, 0.5)
        ],
    },
    {
        "corpus": CORPUS,
        "reference": {"model": "state-spaces/mamba2-130m-hf"},
        "selections": [{"criterion": "medium", "per": "byte"}, {"criterion": "random", "seed": 7}],
    },
]
MODEL = {"corpus": CORPUS, "reference": {"model": "m"}}


def as_stored(request: dict[str, Any]) -> dict[str, Any]:
    return JobRequest.model_validate(request).model_dump(mode="json")


@pytest.mark.parametrize("request_", SAME, ids=["defaults", "trained", "named"])
def test_the_form_sends_the_same_request(request_: dict[str, Any]) -> None:
    form, differs = refilled(as_stored(request_))
    assert differs == []
    made, asked = as_stored(job_request(form)), as_stored(request_)
    assert sorted(made.pop("selections"), key=str) == sorted(asked.pop("selections"), key=str)
    assert made == asked


@pytest.mark.parametrize(
    ("request_", "differs"),
    [
        (MODEL | {"scores": {"edu": {"field": "edu"}}}, ["further scores"]),
        (MODEL | {"selections": [{"rate": 0.5}, {"criterion": "low", "rate": 0.1}]}, ["the selections"]),
        (
            MODEL
            | {"scores": {"edu": {"field": "edu"}}, "selections": [{"stages": [{"score": "edu", "at_least": 3}]}]},
            ["further scores", "the selections"],
        ),
        (MODEL | {"priority": 3}, ["the priority"]),
        (MODEL | {"corpus": CORPUS | {"exclude": ["a b.jsonl"]}}, ["the corpus"]),
    ],
)
def test_what_the_form_cannot_hold_is_named(request_: dict[str, Any], differs: list[str]) -> None:
    assert refilled(as_stored(request_))[1] == differs

"""Scores compared: the report's correlations, overlaps and distributions, previews by any score and by thresholds."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from pruner.spec import SelectionSpec
from service.jobs import explore
from service.jobs.jobs import Jobs
from tests.service.pool import sentence

DOCUMENTS = 60
WorkOff = Callable[[], None]
SELECTIONS = [
    {"criterion": "high", "rate": 0.5, "score": "quality"},
    {"criterion": "low", "rate": 0.5, "score": "quality"},
    {"name": "good", "stages": [{"score": "quality", "at_least": 4}]},
    {"name": "both", "stages": [{"score": "quality", "at_least": 2}, {"score": "flat", "criterion": "low"}]},
]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Documents whose `quality` is a number from 0 to 6, and null for every tenth; `flat` is nearly always the same."""
    return [
        {
            "id": str(i),
            "text": sentence(i, 5 + i % 7),
            "domain": "ab"[i % 2],
            "quality": i * 7 % 60 // 10 + 0.5 if i % 10 else None,
            "opposite": -i * 7 % 60,
            "flat": 0.25 if i % 30 else i,
        }
        for i in range(DOCUMENTS)
    ]


@pytest.fixture
def body(rows: list[dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "corpus": {"paths": [str(folder)], "id_field": "id", "domain_field": "domain"},
        "scores": {name: {"field": name} for name in ("quality", "opposite", "flat")},
        "selections": SELECTIONS,
    }


@pytest.fixture
def job(api: httpx.Client, work_off: WorkOff, body: dict[str, Any]) -> str:
    made = api.post("/v1/jobs", json=body).json()
    work_off()
    done = api.get(f"/v1/jobs/{made['id']}").json()
    assert done["status"] == "succeeded", done["error"]
    return str(made["id"])


def test_the_report_compares_scores_and_selections(api: httpx.Client, job: str, rows: list[dict[str, Any]]) -> None:
    report = api.get(f"/v1/jobs/{job}/report").json()
    scores = {score["name"]: score for score in report["scores"]}
    assert [*scores] == ["quality", "opposite", "flat", "n_bytes"]
    there = [row for row in rows if row["quality"] is not None]
    assert (scores["quality"]["documents"], scores["quality"]["lacking"]) == (len(there), DOCUMENTS - len(there))
    for name, kept in {"good": [row for row in there if row["quality"] >= 4]}.items():
        edges = scores["quality"]["edges"]
        own = [sum(low <= row["quality"] < high for row in kept) for low, high in pairwise(edges)]
        own[-1] += sum(row["quality"] >= edges[-1] for row in kept)
        assert scores["quality"]["bin_kept"][name] == own
    assert [score["nearly_constant"] for score in scores.values()] == [False, False, True, False]
    assert any("nearly constant" in warning and "flat" in warning for warning in report["warnings"])
    correlations = report["correlations"]
    assert (correlations["method"], correlations["bins"]) == ("exact", None)
    pair = correlations["pairs"][0]
    assert (pair["scores"], pair["documents"]) == (["quality", "opposite"], len(there))
    assert [inside["domain"] for inside in pair["domains"]] == ["a", "b"]
    assert sum(inside["documents"] for inside in pair["domains"]) == len(there)
    by_pair = {tuple(each["selections"]): each for each in report["overlaps"]}
    assert len(by_pair) == 6
    assert by_pair["high-0.5-quality", "low-0.5-quality"]["documents"] == 0
    good = by_pair["high-0.5-quality", "good"]
    assert good["documents_of_smaller"] == 1
    assert good["documents_of_all"] == good["documents"] / DOCUMENTS
    assert (good["tokens"], good["tokens_of_all"]) == (0, None)  # of a job without a reference


def test_any_score_is_explored_before_a_selection(
    api: httpx.Client, jobs: Jobs, work_off: WorkOff, job: str, rows: list[dict[str, Any]]
) -> None:
    base = f"/v1/jobs/{job}"
    order = sorted(rows, key=lambda row: (row["opposite"], int(row["id"])))
    spec = {"criterion": "high", "rate": 0.3, "score": "opposite"}
    preview = api.get(f"{base}/preview", params=spec).json()
    keep = math.floor(0.3 * DOCUMENTS + 0.5)
    assert (preview["documents"], preview["ranked_documents"]) == (keep, DOCUMENTS)
    assert (preview["value_min"], preview["value_max"]) == (order[-keep]["opposite"], order[-1]["opposite"])
    assert sum(preview["bin_documents"]) == keep
    (score,) = [score for score in api.get(f"{base}/report").json()["scores"] if score["name"] == "opposite"]
    bars = zip(score["edges"], score["edges"][1:], score["bin_documents"], preview["bin_documents"], strict=False)
    for low, high, whole, kept in bars:
        assert kept == (whole if low > preview["value_min"] else 0 if high <= preview["value_min"] else kept)
    found = api.get(f"{base}/documents", params={"score": "opposite", "rank": preview["start"], "count": 3}).json()
    assert [(row["id"], row["value"]) for row in found["data"]] == [
        (row["id"], row["opposite"]) for row in order[-keep:][:3]
    ]
    jobs.add_selection(job, SelectionSpec.model_validate(spec))
    work_off()
    made = api.get(f"{base}/preview", params={"selection": "high-0.3-opposite"}).json()
    assert made == preview
    assert api.get(f"{base}/documents", params={"score": "nothing"}).status_code == 422


def test_thresholds_are_explored(
    api: httpx.Client, job: str, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for limits in ({"at_least": 4.5}, {"at_most": 1.5}, {"at_least": 1.5, "at_most": 3}, {"at_least": 9}):
        preview = api.get(f"/v1/jobs/{job}/preview", params={"score": "quality", **limits}).json()
        low, high = limits.get("at_least", -math.inf), limits.get("at_most", math.inf)
        kept = [row["quality"] for row in rows if row["quality"] is not None and low <= row["quality"] <= high]
        assert (preview["documents"], preview["stop"] - preview["start"]) == (len(kept), len(kept))
        assert (preview["value_min"], preview["value_max"]) == ((min(kept), max(kept)) if kept else (None, None))
        assert sum(row["documents"] for row in preview["domains"]) == len(kept)
    monkeypatch.setattr(explore, "RANKED_AT_ONCE", 0)
    made = api.get(f"/v1/jobs/{job}/preview", params={"selection": "good"}).json()
    assert made["documents"] == sum(row["quality"] is not None and row["quality"] >= 4 for row in rows)
    assert api.get(f"/v1/jobs/{job}/preview", params={"score": "flat", "at_least": 1}).status_code == 409
    assert api.get(f"/v1/jobs/{job}/preview", params={"at_least": 1}).status_code == 422


def test_pages_of_a_job_without_a_reference(api: httpx.Client, job: str) -> None:
    for query in ("", "?selection=both", "?criterion=threshold&score=quality&at_least=3", "?criterion=random"):
        page = api.get(f"/jobs/{job}{query}")
        assert page.status_code == 200, query
        assert "Rank correlation" in page.text
    report = api.get(f"/jobs/{job}/report.html")
    assert "Selection high-0.5-quality" in report.text
    assert "Around the lower threshold" in report.text
    assert api.get(f"/jobs/{job}/documents?rank=3&score=quality").status_code == 200

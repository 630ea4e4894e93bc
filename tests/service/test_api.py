"""The HTTP API as users meet it: jobs, pages, selections, and a problem for everything that is wrong."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from redis import ConnectionError as RedisConnectionError

import service
from service.contract.schemas import JobRequest
from service.http.middleware import BODY_MAX
from service.jobs.jobs import Jobs


@pytest.fixture
def body(make_request: Callable[..., JobRequest]) -> dict[str, Any]:
    return make_request().model_dump(mode="json")


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that an answer is, checked for what RFC 9457 asks of it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    assert found["title"]
    assert found["type"]
    assert "Traceback" not in found["detail"]
    assert found["instance"] == answer.request.url.path
    return found


def test_a_job_is_accepted_with_its_defaults_filled_in(api: httpx.Client) -> None:
    answer = api.post("/v1/jobs", json={"corpus": {"paths": ["data/*.parquet"]}})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert api.get(answer.headers["location"]).json()["id"] == job["id"]
    assert job["status"] == "queued"
    assert job["request"]["corpus"] == {
        "paths": ["data/*.parquet"],
        "include": [],
        "exclude": [],
        "text_field": "text",
        "id_field": None,
        "domain_field": None,
    }
    train = {"preset": "tiny", "tokens": 2_000_000, "fraction": 0.1, "seed": 0}
    assert job["request"]["reference"] == {"model": None, "train": train}
    assert job["request"]["selections"] == [{"criterion": "medium", "rate": 0.5, "unit": "documents", "within": None}]
    assert {"created_at", "started_at", "finished_at", "progress", "selections", "provenance", "error"} < set(job)


def test_what_was_accepted_may_be_submitted_again(api: httpx.Client, body: dict[str, Any]) -> None:
    first = api.post("/v1/jobs", json=body).json()
    assert api.post("/v1/jobs", json=first["request"]).json()["request"] == first["request"]


def test_a_finished_job_tells_everything(pruned: dict[str, Any]) -> None:
    progress, (selection,) = pruned["progress"], pruned["selections"]
    assert progress["documents_done"] == progress["documents_total"] == 120
    assert progress["shards_done"] == progress["shards_total"] == 3
    assert pruned["corpus"]["files"] == 3
    assert pruned["corpus"]["left_out"] == []
    assert progress["tokens_done"] > 0
    assert selection["id"] == "medium-0.5"
    assert selection["documents"] == 60
    assert selection["perplexity_min"] <= selection["perplexity_max"]
    assert pruned["created_at"] <= pruned["started_at"] <= pruned["finished_at"]
    assert pruned["provenance"]["reference"]["sha256"]
    assert pruned["error"] is None


def test_a_job_that_cannot_be_done_says_why(api: httpx.Client, body: dict[str, Any], work_off: Any) -> None:
    body["corpus"]["paths"] = ["/nowhere/*.parquet"]
    job = api.post("/v1/jobs", json=body).json()
    work_off()
    job = api.get(f"/v1/jobs/{job['id']}").json()
    assert job["status"] == "failed"
    assert job["error"]["status"] == 422
    assert "/nowhere/*.parquet" in job["error"]["detail"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"corpus": {"paths": []}}, "corpus.paths"),
        ({"corpus": {}}, "corpus.paths"),
        ({"corpus": {"paths": ["a"], "text": "b"}}, "corpus.text"),
        ({"selections": [{"rate": 0}]}, "selections.0.rate"),
        ({"selections": [{"rate": 1.5}]}, "selections.0.rate"),
        ({"selections": [{"criterion": "best"}]}, "selections.0.criterion"),
        ({"selections": []}, "selections"),
        ({"selections": [{"criterion": "random", "per": "byte"}]}, "selections.0"),
        ({"selections": [{"criterion": "random", "seed": -1}]}, "selections.0.seed"),
        ({"selections": [{"criterion": "low", "seed": 3}]}, "selections.0"),
        ({"selections": [{"per": "token"}]}, "selections.0.per"),
        ({"selections": [{"within": "file"}]}, "selections.0.within"),
        ({"reference": {}}, "reference"),
        ({"reference": {"train": {"preset": "huge"}}}, "reference.train.preset"),
        ({"reference": {"train": {"fraction": 1}}}, "reference.train.fraction"),
        ({"scoring": {"stride": 0}}, "scoring.stride"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_each_wrong_field_is_named(api: httpx.Client, body: dict[str, Any], change: Any, field: str) -> None:
    found = problem(api.post("/v1/jobs", json=body | change), 422)
    assert field in [error["field"] for error in found["errors"]]
    assert field in found["detail"]


def test_selections_inside_domains_need_domains(api: httpx.Client) -> None:
    wanted = {"corpus": {"paths": ["a"]}, "selections": [{"within": "domain"}]}
    assert "domain_field" in problem(api.post("/v1/jobs", json=wanted), 422)["detail"]


def test_bodies_that_are_no_json(api: httpx.Client) -> None:
    kind = {"content-type": "application/json"}
    assert "not JSON" in problem(api.post("/v1/jobs", content=b'{"corpus": ', headers=kind), 400)["detail"]
    problem(api.post("/v1/jobs", content=b"[]", headers=kind), 422)
    assert "not a JSON object" in problem(api.post("/v1/jobs", content=b"", headers=kind), 422)["detail"]
    problem(api.post("/v1/jobs", content=b"\xff{", headers=kind), 400)
    assert "Content-Type" in problem(api.post("/v1/jobs", data={"corpus": "a"}), 415)["detail"]


def test_bodies_that_are_too_large(api: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(BODY_MAX // 65_536 + 1):
            yield b" " * 65_536

    kind = {"content-type": "application/json"}
    problem(api.post("/v1/jobs", content=b" " * (BODY_MAX + 1), headers=kind), 413)
    problem(api.post("/v1/jobs", content=endless(), headers=kind), 413)


def test_what_is_not_there(api: httpx.Client) -> None:
    for path in ("", "/events", "/report", "/scores", "/rejects", "/selections/medium-0.5/manifest"):
        assert "nothing" in problem(api.get(f"/v1/jobs/nothing{path}"), 404)["detail"]
    problem(api.post("/v1/jobs/nothing/cancel"), 404)
    problem(api.post("/v1/jobs/nothing/selections", json={}), 404)
    problem(api.get("/v2"), 404)
    problem(api.post("/v1/score", json={"texts": ["a"], "job": "nothing"}), 404)
    assert (api.head("/healthz").status_code, api.head("/readyz").status_code) == (200, 200)
    assert problem(api.delete("/v1/jobs"), 405)
    assert api.delete("/v1/jobs").headers["allow"]


def test_redis_away_is_said_and_passes(
    api: httpx.Client, jobs: Jobs, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise RedisConnectionError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(jobs.queue.redis.connection_pool, "get_connection", away)
        for answer in (api.post("/v1/jobs", json=body), api.get("/v1/jobs"), api.get("/readyz")):
            assert problem(answer, 503)
            assert answer.headers["retry-after"]
        assert api.get("/healthz").json() == {"status": "ok"}
        assert "winnow_redis_up 0.0" in api.get("/metrics").text
    assert api.get("/readyz").json() == {"status": "ready"}


def test_the_same_key_gives_the_same_job(api: httpx.Client, body: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "one two"}
    first, again = (api.post("/v1/jobs", json=body, headers=key) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    assert len(api.get("/v1/jobs").json()["data"]) == 1
    problem(api.post("/v1/jobs", json=body | {"selections": [{"rate": 0.1}]}, headers=key), 422)


def test_pages_hold_every_job_once_newest_first(api: httpx.Client, body: dict[str, Any]) -> None:
    made = [api.post("/v1/jobs", json=body).json()["id"] for _ in range(7)]
    api.post(f"/v1/jobs/{made[2]}/cancel")
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = api.get("/v1/jobs", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        found += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert len(page["data"]) == 3
    assert found == made[::-1]
    cancelled = api.get("/v1/jobs", params={"status": "cancelled"}).json()["data"]
    assert [job["id"] for job in cancelled] == [made[2]]
    problem(api.get("/v1/jobs", params={"cursor": "strange"}), 400)
    problem(api.get("/v1/jobs", params={"limit": 0}), 422)
    problem(api.get("/v1/jobs", params={"status": "lost"}), 422)


def test_cancelling(api: httpx.Client, body: dict[str, Any], pruned: dict[str, Any]) -> None:
    job = api.post("/v1/jobs", json=body).json()
    for _ in range(2):
        answer = api.post(f"/v1/jobs/{job['id']}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert "succeeded" in problem(api.post(f"/v1/jobs/{pruned['id']}/cancel"), 409)["detail"]


def test_one_more_selection_without_scoring_again(
    api: httpx.Client, pruned: dict[str, Any], start_worker: Callable[..., Any]
) -> None:
    start_worker(resources=("light",))  # none that could score
    url = f"/v1/jobs/{pruned['id']}/selections"
    made = api.post(url, json={"criterion": "low", "rate": 0.25})
    assert made.status_code == 201
    assert (made.json()["id"], made.json()["documents"]) == ("low-0.25", 30)
    assert made.headers["location"] == made.json()["manifest_url"]
    again = api.post(url, json={"criterion": "low", "rate": 0.25})
    assert (again.status_code, again.json()) == (200, made.json())
    job = api.get(f"/v1/jobs/{pruned['id']}").json()
    assert [selection["id"] for selection in job["selections"]] == ["medium-0.5", "low-0.25"]
    assert job["status"] == "succeeded"
    report = api.get(f"/v1/jobs/{pruned['id']}/report").json()
    assert [selection["id"] for selection in report["selections"]] == ["medium-0.5", "low-0.25"]
    problem(api.post(url, json={"rate": 2}), 422)


def test_selections_before_there_are_scores(api: httpx.Client, body: dict[str, Any]) -> None:
    job = api.post("/v1/jobs", json=body).json()
    at = f"/v1/jobs/{job['id']}"
    asked = (
        lambda: api.post(f"{at}/selections", json={}),
        lambda: api.get(f"{at}/report"),
        lambda: api.get(f"{at}/preview"),
    )
    assert all("when it has succeeded" in problem(ask(), 409)["detail"] for ask in asked)
    api.post(f"{at}/cancel")
    assert all("was cancelled and has no" in problem(ask(), 409)["detail"] for ask in asked)


def test_events_go_on_until_the_job_ends(
    api: httpx.Client, body: dict[str, Any], start_worker: Callable[..., Any]
) -> None:
    job = api.post("/v1/jobs", json=body).json()
    seen: list[dict[str, Any]] = []
    with api.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        start_worker()
        for line in stream.iter_lines():
            if line.startswith("data:"):
                seen.append(json.loads(line[5:]))
            elif line and not line.startswith(":"):
                assert line == "event: progress"
    order = ["queued", "planning", "training", "scoring", "selecting", "succeeded"]
    places = [order.index(event["status"]) for event in seen]
    assert places == sorted(places)
    assert seen[0]["status"] == "queued"
    assert seen[-1] == api.get(f"/v1/jobs/{job['id']}").json()
    done = [event["progress"]["documents_done"] for event in seen]
    assert done == sorted(done)


def test_metrics_count_requests_by_route_and_what_was_scored(
    api: httpx.Client, body: dict[str, Any], work_off: Callable[[], None]
) -> None:
    job = api.post("/v1/jobs", json=body).json()
    work_off()
    assert api.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
    text = api.get("/metrics").text
    assert 'winnow_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"}' in text
    assert job["id"] not in text
    for number in range(3):
        api.request(f"X{number}", "/v1/jobs")
    text = api.get("/metrics").text
    assert 'method="X' not in text
    assert 'winnow_http_requests_total{method="other",' in text
    assert "winnow_scored_documents_total 120.0" in text
    assert 'winnow_jobs{status="succeeded"} 1.0' in text
    assert 'winnow_tasks_pending{resource="gpu"} 0.0' in text


def test_openapi_describes_the_api(api: httpx.Client) -> None:
    schema = api.get("/openapi.json").json()
    manual = api.get("/docs")
    assert manual.status_code == 200
    assert all(path in manual.text for path in schema["paths"])
    assert not re.findall(r'(?:src|href)="(?:\w+:)?//', manual.text)
    assert api.get("/static/swagger/swagger-ui-bundle.js").headers["content-type"].startswith("text/javascript")
    assert "SwaggerUIBundle" in api.get("/static/swagger/swagger-ui-bundle.js").text
    assert ".swagger-ui" in api.get("/static/swagger/swagger-ui.css").text
    assert api.get("/static/swagger/redoc.standalone.js").status_code == 404
    assert schema["info"]["version"] == service.__version__
    assert set(schema["paths"]) >= {
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/cancel",
        "/v1/jobs/{job_id}/selections",
        "/v1/jobs/{job_id}/selections/{selection_id}/manifest",
        "/v1/jobs/{job_id}/rejects",
        "/v1/jobs/{job_id}/scores",
        "/v1/jobs/{job_id}/report",
        "/v1/jobs/{job_id}/events",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    submit = schema["paths"]["/v1/jobs"]["post"]["responses"]
    assert set(submit) >= {"202", "400", "413", "415", "422", "503"}
    for path in schema["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert list(answer["content"]) == ["application/problem+json"]

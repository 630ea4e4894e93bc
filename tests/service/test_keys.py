"""API keys: requests without one are refused, roles limit a key, and jobs are visible to their owner only."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pruner.tables.storage import Storage
from service.commands.cli import main
from service.contract.schemas import JobRequest
from service.http.keys import Keys
from service.jobs.jobs import Jobs
from tests.service.api_server import bearer, client, serving
from tests.service.pool import until

MakeRequest = Callable[..., JobRequest]


@pytest.fixture
def store(tmp_path: Path) -> Keys:
    return Keys(Storage(str(tmp_path)))


def test_a_key_is_valid_until_it_is_revoked(store: Keys, tmp_path: Path) -> None:
    key, text = store.create("alice", "submit")
    other = Keys(Storage(str(tmp_path)))  # as in another process
    found = other.find(text)
    assert found is not None
    assert (found.id, found.role, found.owner) == (key.id, "submit", key.id)
    store.revoke(key.id)
    assert store.find(text) is None
    until(lambda: other.find(text) is None)


def test_no_secret_is_stored(store: Keys, tmp_path: Path) -> None:
    texts = [store.create("same", "read")[1] for _ in range(3)]
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for text in texts:
        assert text.split("_", 2)[2].encode() not in kept
        assert text.encode() not in kept
    assert len({key.sha256 for key in store.all()}) == 3


@given(st.text() | st.text(st.sampled_from("winnow_0123456789abcdef-")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_other_texts_are_not_keys(store: Keys, text: str) -> None:
    assert store.find(text) is None


def test_a_secret_belongs_to_one_key(store: Keys) -> None:
    (one, one_text), (_, two_text) = store.create("one", "admin"), store.create("two", "admin")
    secret = two_text.split("_", 2)[2]
    assert store.find(f"winnow_{one.id}_{secret}") is None
    for cut in (one_text[:-1], one_text + "A", one_text.upper(), f"winnow_{one.id}_", f"winnow_{one.id}"):
        assert store.find(cut) is None


@pytest.fixture
def locked(jobs: Jobs) -> Iterator[str]:
    """The URL of an API that requires keys."""
    with serving(jobs, always_keys=True) as url:
        yield url


CALLS = [
    ("POST", "/v1/jobs", "submit"),
    ("GET", "/v1/jobs", "read"),
    ("GET", "/v1/jobs/{id}", "read"),
    ("POST", "/v1/jobs/{id}/cancel", "submit"),
    ("POST", "/v1/jobs/{id}/selections", "submit"),
    ("GET", "/v1/jobs/{id}/selections/medium-0.5/manifest", "read"),
    ("HEAD", "/v1/jobs/{id}/selections/medium-0.5/manifest", "read"),
    ("GET", "/v1/jobs/{id}/rejects", "read"),
    ("GET", "/v1/jobs/{id}/scores", "read"),
    ("GET", "/v1/jobs/{id}/report", "read"),
    ("GET", "/v1/jobs/{id}/events", "read"),
    ("GET", "/v1/jobs/{id}/preview", "read"),
    ("GET", "/v1/jobs/{id}/documents", "read"),
    ("GET", "/v1/jobs/{id}/histogram", "read"),
    ("GET", "/v1/jobs/{id}/workers", "read"),
    ("POST", "/v1/jobs/{id}/ablations/x/cancel", "submit"),
    ("POST", "/v1/score", "submit"),
    ("GET", "/metrics", "read"),
]
OF_A_JOB = [(method, path) for method, path, _ in CALLS if "{id}" in path]


def test_requests_without_a_valid_key_are_refused(locked: str) -> None:
    wrong = ["", "Bearer", "Bearer x", "Basic dXNlcjpwYXNz", "bearer winnow_000000000000_x", "Bearer winnow__"]
    with client(locked) as api:
        for method, path, _ in CALLS:
            for header in wrong:
                answer = api.request(method, path.format(id="x"), headers={"Authorization": header} if header else {})
                assert answer.status_code == 401, (method, path, header)
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.headers["content-type"] == "application/problem+json"
        assert api.get("/v2/none").status_code == 401
        for path in (
            "/healthz",
            "/readyz",
            "/docs",
            "/openapi.json",
            "/static/api.js",
            "/static/swagger/swagger-ui.css",
        ):
            assert api.get(path).status_code == 200


def test_a_role_limits_what_a_key_may_do(locked: str, jobs: Jobs) -> None:
    with client(locked) as api:
        for role, allowed in (("read", {"read"}), ("submit", {"read", "submit"}), ("admin", {"read", "submit"})):
            headers = bearer(jobs, role)  # type: ignore[arg-type]
            for method, path, needed in CALLS:
                status = api.request(method, path.format(id="x"), headers=headers).status_code
                assert (status == 403) == (needed not in allowed), (role, method, path, status)
                assert status != 401


@pytest.fixture
def done(
    locked: str, jobs: Jobs, make_request: MakeRequest, work_off: Callable[[], None]
) -> tuple[dict[str, str], str]:
    """Alice's headers, and the id of a job of hers that has succeeded."""
    alice = bearer(jobs, "submit")
    with client(locked, alice) as api:
        job = str(api.post("/v1/jobs", json=make_request().model_dump(mode="json")).json()["id"])
        work_off()
        assert api.get(f"/v1/jobs/{job}").json()["status"] == "succeeded"
    return alice, job


def test_a_job_and_its_files_are_visible_to_its_owner_only(
    locked: str, jobs: Jobs, done: tuple[dict[str, str], str]
) -> None:
    alice, job = done
    bob, admin = bearer(jobs, "submit"), bearer(jobs, "admin")
    key_of_alice = alice["Authorization"].split("_")[1]
    reader = bearer(jobs, "read", owner=key_of_alice)
    with client(locked) as api:
        for method, path in OF_A_JOB:
            body: Any = {} if method == "POST" else None
            answer = api.request(method, path.format(id=job), headers=bob, json=body)
            nothing = api.request(method, path.format(id="none"), headers=bob, json=body)
            assert answer.status_code == nothing.status_code == 404, (method, path)
            assert answer.text.replace(job, "none") == nothing.text
            if method != "POST":
                for who in (alice, reader, admin):
                    assert api.request(method, path.format(id=job), headers=who).status_code == 200, (method, path)
        for who, seen in ((alice, [job]), (reader, [job]), (admin, [job]), (bob, [])):
            for query in ("", "?status=succeeded"):
                page = api.get(f"/v1/jobs{query}", headers=who).json()
                assert [entry["id"] for entry in page["data"]] == seen
        assert api.post(f"/v1/jobs/{job}/selections", json={"rate": 0.25}, headers=bob).status_code == 404
        assert api.post(f"/v1/jobs/{job}/cancel", headers=bob).status_code == 404


def test_owners_list_their_own_jobs_only(locked: str, jobs: Jobs, make_request: MakeRequest) -> None:
    body = make_request().model_dump(mode="json")
    people = [bearer(jobs, "submit") for _ in range(2)]
    with client(locked) as api:
        made: list[list[str]] = [[], []]
        for number in range(7):
            answer = api.post("/v1/jobs", json=body, headers=people[number % 2])
            made[number % 2].insert(0, answer.json()["id"])
        api.post(f"/v1/jobs/{made[0][0]}/cancel", headers=people[0])
        for person, expected in zip(people, made, strict=True):
            found, cursor = [], None
            while cursor is not None or not found:
                query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
                page = api.get("/v1/jobs", params=query, headers=person).json()
                found += [job["id"] for job in page["data"]]
                cursor = page["next_cursor"]
            assert found == expected
        (cancelled,) = api.get("/v1/jobs?status=cancelled", headers=people[0]).json()["data"]
        assert cancelled["id"] == made[0][0]
        assert api.get("/v1/jobs?status=cancelled", headers=people[1]).json()["data"] == []
        # The same after Redis has lost its data.
        jobs.queue.redis.delete(*jobs.queue.redis.keys(f"{jobs.queue.prefix}*"))
        until(lambda: len(api.get("/v1/jobs", headers=people[1]).json()["data"]) == 3)
        assert api.get(f"/v1/jobs/{made[0][0]}", headers=people[1]).status_code == 404


def test_the_same_idempotency_key_of_two_owners_is_two_jobs(locked: str, jobs: Jobs, make_request: MakeRequest) -> None:
    body = make_request().model_dump(mode="json")
    alice, bob = ({**bearer(jobs, "submit"), "Idempotency-Key": "nightly"} for _ in range(2))
    with client(locked) as api:
        first, again, other = (api.post("/v1/jobs", json=body, headers=who).json()["id"] for who in (alice, alice, bob))
        assert first == again != other
        body["selections"] = [{"rate": 0.1}]
        assert api.post("/v1/jobs", json=body, headers=bob).status_code == 422


def test_a_revoked_key_is_refused(locked: str, jobs: Jobs) -> None:
    headers = bearer(jobs, "admin")
    with client(locked, headers) as api:
        assert api.get("/v1/jobs").status_code == 200
        Keys(jobs.workspace.storage).revoke(headers["Authorization"].split("_")[1])
        until(lambda: api.get("/v1/jobs").status_code == 401)


def test_on_this_machine_a_key_is_required_once_one_was_made(jobs: Jobs) -> None:
    with serving(jobs) as url, client(url) as api:
        assert api.get("/v1/jobs").status_code == 200
        headers = bearer(jobs, "read")
        until(lambda: api.get("/v1/jobs").status_code == 401)
        assert api.get("/v1/jobs", headers=headers).status_code == 200
        Keys(jobs.workspace.storage).revoke(headers["Authorization"].split("_")[1])
        until(lambda: api.get("/v1/jobs", headers=headers).status_code == 401)
        assert api.get("/v1/jobs").status_code == 401  # revoking the last key does not make keys optional again


# -- the commands
def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    shown = capsys.readouterr()
    return status, shown.out.strip(), shown.err.strip()


def test_keys_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--workspace", str(tmp_path / "new"))
    status, text, note = said(capsys, "keys", "make", "alice's laptop", "--role", "submit", *where)
    assert status == 0
    assert re.fullmatch(r"winnow_[0-9a-f]{12}_[\w-]{43}", text)
    assert "save it now" in note
    key_id = text.split("_")[1]
    shared = json.loads(said(capsys, "keys", "make", "board", "--role", "read", "--owner", key_id, "--json", *where)[1])
    assert shared["owner"] == key_id
    listed = json.loads(said(capsys, "keys", "list", "--json", *where)[1])
    assert [(key["name"], key["role"]) for key in listed] == [("alice's laptop", "submit"), ("board", "read")]
    assert {"salt", "sha256", "key"}.isdisjoint(listed[0])
    status, table, _ = said(capsys, "keys", "list", *where)
    assert key_id in table
    assert said(capsys, "keys", "revoke", key_id, *where)[0] == 0
    assert key_id not in [key["id"] for key in json.loads(said(capsys, "keys", "list", "--json", *where)[1])]
    status, _, error = said(capsys, "keys", "revoke", key_id, *where)
    assert (status, "no key" in error) == (1, True)
    status, _, error = said(capsys, "keys", "make", "x", "--role", "read", "--owner", "none", *where)
    assert (status, "no key" in error) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["keys"], "ACTION"),
        (["keys", "make", "x", "--workspace", "w"], "--role"),
        (["keys", "make", "x", "--role", "king", "--workspace", "w"], "invalid choice"),
        (["keys", "list"], "--workspace"),
    ],
)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str], what: str) -> None:
    status, _, error = said(capsys, *arguments)
    assert (status, what in error) == (2, True)


def test_commands_send_the_key(
    locked: str,
    jobs: Jobs,
    corpus: Path,
    reference: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("submit", str(corpus), "--reference", str(reference), "--server", locked)
    status, _, error = said(capsys, *arguments)
    assert (status, "requires a key" in error) == (1, True)
    key = bearer(jobs, "submit")["Authorization"].removeprefix("Bearer ")
    until(lambda: httpx.get(f"{locked}/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200)
    status, job, _ = said(capsys, *arguments, "--key", key)
    assert status == 0
    monkeypatch.setenv("WINNOW_KEY", key)
    status, shown, _ = said(capsys, "status", job, "--server", locked, "--json")
    assert (status, json.loads(shown)["id"]) == (0, job)
    for command in ("submit", "status"):
        assert key not in said(capsys, command, "--help")[1]


def test_no_answer_contains_a_secret(locked: str, jobs: Jobs) -> None:
    headers = bearer(jobs, "submit")
    secret = headers["Authorization"].split("_", 2)[2]  # it may have a _ of its own
    with client(locked, headers) as api:
        for answer in (api.get("/v1/jobs/none"), api.post("/v1/jobs", json={}), api.get("/metrics")):
            assert secret not in answer.text

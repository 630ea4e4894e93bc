"""Requests that must be refused: other host names and origins, paths and models outside the roots, harmful files."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pruner.tables.storage import Storage
from service.commands.cli import main
from service.contract.permissions import Rules
from service.contract.schemas import JobRequest
from service.http.keys import Keys
from service.jobs.jobs import Jobs
from service.run import subprocesses as child
from service.run.settings import Settings
from tests.service.api_server import bearer, client, serving
from tests.service.artefacts import table_path
from tests.service.pool import until

MakeRequest = Callable[..., JobRequest]
Work = Callable[[], None]


@pytest.fixture
def body(make_request: MakeRequest) -> dict[str, Any]:
    return make_request().model_dump(mode="json")


# -- host names and origins
HERE = ["127.0.0.1", "127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "127.8.8.8"]
ELSEWHERE = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "10.0.0.1",
    "",
    "[::2]",
]


def test_without_keys_only_the_names_of_this_machine_are_answered(api: httpx.Client, body: dict[str, Any]) -> None:
    for host in HERE:
        assert api.get("/v1/jobs", headers={"Host": host}).status_code == 200, host
        assert api.post("/v1/jobs", json=body, headers={"Host": host}).status_code == 202, host
    before = len(api.get("/v1/jobs").json()["data"])
    for host in ELSEWHERE:
        for answer in (
            api.get("/v1/jobs", headers={"Host": host}),
            api.get("/metrics", headers={"Host": host}),
            api.post("/v1/jobs", json=body, headers={"Host": host}),
        ):
            assert answer.status_code in (400, 403), host
    assert len(api.get("/v1/jobs").json()["data"]) == before


def test_writes_from_pages_of_other_origins_are_refused(api: httpx.Client, body: dict[str, Any]) -> None:
    own = str(api.base_url).rstrip("/")
    port = own.rpartition(":")[2]
    cross = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": f"http://localhost:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": f"http://127.0.0.1:{port}.evil.example"},
        {"Origin": "http://[bad"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ]
    for path in ("/v1/jobs", "/v1/jobs/x/cancel", "/v1/jobs/x/selections"):
        for headers in cross:
            answer = api.post(path, json=body, headers=headers)
            assert answer.status_code == 403, (path, headers)
            assert "another origin" in answer.json()["detail"]
    assert api.get("/v1/jobs").json()["data"] == []
    for headers in ({"Origin": own}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert api.post("/v1/jobs", json=body, headers=headers).status_code == 202
    assert "access-control-allow-origin" not in api.get("/v1/jobs", headers={"Origin": "https://evil.example"}).headers


def test_with_a_key_any_host_name_is_answered_but_no_page_of_another_origin(jobs: Jobs, body: dict[str, Any]) -> None:
    with serving(jobs, always_keys=True) as url, client(url, bearer(jobs, "submit")) as api:
        named = {"Host": "winnow.example"}
        assert api.post("/v1/jobs", json=body, headers=named).status_code == 202
        assert api.post("/v1/jobs", json=body, headers=named | {"Origin": "https://winnow.example"}).status_code == 202
        assert api.post("/v1/jobs", json=body, headers=named | {"Origin": "https://evil.example"}).status_code == 403


headers = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40).map(
    str.strip
)


@given(host=headers, origin=headers, authorization=headers)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_gets_an_answer(api: httpx.Client, host: str, origin: str, authorization: str) -> None:
    given = {"Host": host.encode("latin1"), "Origin": origin.encode("latin1")}
    given["Authorization"] = authorization.encode("latin1")
    answer = api.request("POST", "/v1/jobs/none/cancel", headers=given)
    assert answer.status_code in (400, 401, 403, 404)


# -- settings
def test_a_public_service_does_not_start_without_roots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--workspace", str(tmp_path), "--host", "0.0.0.0", "--port", "0"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--corpus-root (or WINNOW_CORPUS_ROOT) must be given where --host" in line


def test_a_public_service_requires_keys_and_reads_its_roots_only(tmp_path: Path, corpus: Path) -> None:
    workspace, log = tmp_path / "workspace", tmp_path / "log"
    roots = (str(corpus), "/gone")
    given = Settings(workspace=str(workspace), host="0.0.0.0", port=0, device="cpu", workers=0, corpus_root=roots)
    with log.open("wb") as out:
        command = child.python("from service.commands.cli import main; sys.exit(main(['serve']))")
        service = subprocess.Popen(command, env=given.environment(), stdout=out, stderr=subprocess.STDOUT)
    try:
        ready = until(lambda: re.search(r"ready at http://0\.0\.0\.0:(\d+)", log.read_text()))
        assert "no request is accepted yet" in log.read_text()
        assert re.findall(r"(\S+): no such folder", log.read_text()) == ["/gone"]
        url = f"http://127.0.0.1:{ready[1]}"
        job = {"corpus": {"paths": [str(corpus / "part-0.parquet")]}, "reference": {"train": {"tokens": 1000}}}
        _, text = Keys(Storage(str(workspace))).create("alice", "submit")
        with client(url, {"Authorization": f"Bearer {text}"}) as api:
            assert httpx.post(f"{url}/v1/jobs", json=job).status_code == 401
            made = api.post("/v1/jobs", json=job).json()["id"]
            assert api.post("/v1/jobs", json={"corpus": {"paths": [str(tmp_path)]}}).status_code == 422
            named = {**job, "reference": {"model": "gpt2"}}
            assert api.post("/v1/jobs", json=named).status_code == 422
            # The light worker has read the corpus then. There is none that trains.
            until(lambda: api.get(f"/v1/jobs/{made}").json()["status"] not in ("queued", "planning"))
            assert api.get(f"/v1/jobs/{made}").json()["status"] == "training"
    finally:
        service.terminate()
        assert service.wait(30) == 0


# -- paths
@pytest.fixture
def closed(jobs: Jobs, corpus: Path) -> Iterator[httpx.Client]:
    """An API whose jobs may read the session's corpus and no model."""
    with serving(jobs, Rules(corpus_roots=(str(corpus),), model_roots=())) as url, client(url) as api:
        yield api


def test_jobs_under_a_root_succeed(closed: httpx.Client, corpus: Path, work_off: Work) -> None:
    train = {"train": {"preset": "tiny", "tokens": 1000}}
    accepted = {"corpus": {"paths": [f"{corpus}/*.parquet"]}, "reference": train}
    job = closed.post("/v1/jobs", json=accepted).json()
    work_off()
    assert closed.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"


def test_jobs_outside_the_roots_are_refused(closed: httpx.Client, corpus: Path) -> None:
    for path in (
        "/etc/passwd",
        f"{corpus}/../x.parquet",
        f"{corpus.parent}/*.parquet",
        "x.parquet",
        "~/x.parquet",
        f"simplecache::file://{corpus}/part-0.parquet",
        f"file://{corpus.parent}/x.parquet",
        f"{corpus}/%2e%2e/x.parquet",
        "s3://bucket/x.parquet",
        "http://169.254.169.254/latest/x.jsonl",
        f"{corpus}/x\u0000.parquet",
    ):
        answer = closed.post("/v1/jobs", json={"corpus": {"paths": [str(corpus), path]}})
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), path
    assert closed.get("/v1/jobs").json()["data"] == []


def test_a_job_fails_on_a_link_to_outside_the_roots(jobs: Jobs, corpus: Path, tmp_path: Path, work_off: Work) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link.parquet").symlink_to(corpus / "part-0.parquet")
    with serving(jobs, Rules(corpus_roots=(str(tmp_path / "root"),))) as url, client(url) as api:
        job = api.post("/v1/jobs", json={"corpus": {"paths": [str(tmp_path / "root")]}}).json()
        work_off()
        ended = api.get(f"/v1/jobs/{job['id']}").json()
    assert ended["status"] == "failed"
    assert "link.parquet" in ended["error"]["detail"]
    assert "corpus roots" in ended["error"]["detail"]


def test_no_job_and_no_check_reads_the_workspace(
    jobs: Jobs, api: httpx.Client, body: dict[str, Any], tmp_path: Path, work_off: Work
) -> None:
    done = api.post("/v1/jobs", json=body).json()["id"]
    work_off()
    paths = [f"{jobs.workspace.storage.url}/index/*/scores.parquet"]
    if (scores := jobs.workspace.storage.local(table_path(jobs.workspace, done, "scores.parquet"))) is not None:
        (tmp_path / "link.parquet").symlink_to(scores)
        paths.append(str(tmp_path / "link.parquet"))
    for path in paths:
        job = api.post("/v1/jobs", json={"corpus": {"paths": [path], "text_field": "file"}}).json()
        work_off()
        ended = api.get(f"/v1/jobs/{job['id']}").json()
        assert (ended["status"], ended["error"]["status"]) == ("failed", 422)
        assert "lies in the service's workspace" in ended["error"]["detail"]
        checked = api.post("/v1/corpora/check", json={"paths": [path], "text_field": "file"})
        assert checked.status_code == 422
        assert "lies in the service's workspace" in checked.json()["detail"]


def test_without_roots_the_web_is_not_read(api: httpx.Client) -> None:
    answer = api.post("/v1/jobs", json={"corpus": {"paths": ["https://example.org/x.jsonl"]}})
    assert answer.status_code == 422
    assert "not under a corpus root" in answer.json()["detail"]


# -- models
def test_models_are_allowed_by_name_or_root(
    jobs: Jobs, corpus: Path, reference: Path, tmp_path: Path, work_off: Work
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "inside").symlink_to(reference)
    (tmp_path / "models" / "real").mkdir()
    for file in reference.iterdir():
        (tmp_path / "models" / "real" / file.name).write_bytes(file.read_bytes())
    rules = Rules(
        corpus_roots=(str(corpus),), model_roots=(str(tmp_path / "models"),), models={"small": str(reference)}
    )
    paths = {"paths": [f"{corpus}/part-0.parquet"]}
    with serving(jobs, rules) as url, client(url) as api:

        def submit(model: str) -> httpx.Response:
            return api.post("/v1/jobs", json={"corpus": paths, "reference": {"model": model}})

        for model in (str(reference), "gpt2", "org/name", "/etc", f"{tmp_path}/models/../x", "models/real", "~"):
            answer = submit(model)
            assert answer.status_code == 422, model
            assert f"unknown model {model!r}: use small" in answer.json()["detail"]
        made = {model: submit(model).json()["id"] for model in ("small", f"{tmp_path}/models/real")}
        outside = submit(f"{tmp_path}/models/inside").json()["id"]
        work_off()
        for model, job in made.items():
            ended = api.get(f"/v1/jobs/{job}").json()
            assert (ended["status"], ended["request"]["reference"]["model"]) == ("succeeded", model)
        ended = api.get(f"/v1/jobs/{outside}").json()
        assert ended["status"] == "failed"
        assert "outside the model roots" in ended["error"]["detail"]


def test_pickled_weights_are_not_loaded(
    api: httpx.Client, corpus: Path, reference: Path, tmp_path: Path, work_off: Work
) -> None:
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    import pickle

    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((reference / name).read_bytes())
    for name in ("pytorch_model.bin", "model.pt", "model.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    job = api.post("/v1/jobs", json={"corpus": {"paths": [str(corpus)]}, "reference": {"model": str(tmp_path)}}).json()
    work_off()
    assert api.get(f"/v1/jobs/{job['id']}").json()["status"] == "failed"
    assert not ran.exists()


# -- harmful files and bodies
def test_a_decompression_bomb_fails_its_job_but_not_the_next(
    api: httpx.Client, make_request: MakeRequest, tmp_path: Path, work_off: Work, body: dict[str, Any]
) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), pa.array(["x" * (1 << 20)]))
    bomb = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"text": column}), bomb, compression="zstd", store_schema=False, write_statistics=False)
    job = api.post("/v1/jobs", json=body | {"corpus": {"paths": [str(bomb)]}}).json()
    after = api.post("/v1/jobs", json=body).json()
    work_off()
    ended = api.get(f"/v1/jobs/{job['id']}").json()
    assert (ended["status"], ended["error"]["status"]) == ("failed", 422)
    assert str(bomb) in ended["error"]["detail"]
    assert api.get(f"/v1/jobs/{after['id']}").json()["status"] == "succeeded"


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 1_000_000,
        b'{"corpus":' * 100_000,
        b'{"corpus": {"paths": ["x"]}, "a": ' + b"[" * 400_000 + b"]" * 400_000 + b"}",
        b'{"corpus": {"paths": ["x"]}, "reference": {"train": {"seed": ' + b"9" * 100_000 + b"}}}",
        b'{"corpus": {"paths": ["x"]}, "reference": {"train": {"fraction": 1e400}}}',
        b'{"corpus": {"paths": ["\\ud800"]}}',
        b'{"\\ud800": 1}',
        b'{"corpus": {"paths": [' + b'"x",' * 200_000 + b'"x"]}}',
        b"\xff\xfe{}",
        b"\x00",
    ],
)
def test_harmful_bodies_are_refused(api: httpx.Client, content: bytes) -> None:
    answer = api.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 20_000
    assert json.loads(answer.content)["status"] == answer.status_code
    assert api.get("/v1/jobs").status_code == 200

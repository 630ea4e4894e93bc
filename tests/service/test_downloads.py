"""Downloads: what they hold, and HTTP's rules for conditions and ranges."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from service.contract.scorers import STATISTICS
from service.work.pool_worker import PoolWorker


@pytest.fixture
def url(pruned: dict[str, Any]) -> str:
    return str(pruned["selections"][0]["manifest_url"])


@pytest.fixture
def content(api: httpx.Client, url: str) -> bytes:
    return api.get(url).content


def rows(answer: httpx.Response) -> list[dict[str, Any]]:
    return list(pq.read_table(io.BytesIO(answer.content)).to_pylist())


def test_a_manifest_in_both_formats(api: httpx.Client, url: str) -> None:
    parquet, lines = (api.get(url, params={"format": name}) for name in ("parquet", "jsonl"))
    assert parquet.headers["content-type"] == "application/vnd.apache.parquet"
    assert parquet.headers["content-disposition"] == 'attachment; filename="manifest-medium-0.5.parquet"'
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    assert lines.headers["content-disposition"] == 'attachment; filename="manifest-medium-0.5.jsonl"'
    assert [json.loads(line) for line in lines.text.splitlines()] == rows(parquet)
    assert api.get(url).content == parquet.content


def test_the_etag_is_the_hash_of_the_content(api: httpx.Client, pruned: dict[str, Any], url: str) -> None:
    base = f"/v1/jobs/{pruned['id']}"
    for path in (url, f"{url}?format=jsonl", f"{base}/rejects", f"{base}/rejects?format=jsonl", f"{base}/scores"):
        answer = api.get(path)
        assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
        assert answer.headers["content-length"] == str(len(answer.content))
        head = api.head(path)
        assert (head.status_code, head.content) == (200, b"")
        same = ("etag", "content-length", "content-type", "content-disposition", "accept-ranges")
        assert [head.headers[name] for name in same] == [answer.headers[name] for name in same]


def test_scores_and_rejects_hold_every_document(api: httpx.Client, pruned: dict[str, Any], url: str) -> None:
    scores = rows(api.get(f"/v1/jobs/{pruned['id']}/scores?format=parquet"))
    assert len(scores) == 120
    columns = ["file", "row", "id", "domain", "n_tokens", "nll", "perplexity", "n_bytes"]
    assert list(scores[0]) == [*columns, *STATISTICS, "training", "reject"]
    assert rows(api.get(f"/v1/jobs/{pruned['id']}/rejects")) == []
    scored = {row["id"]: row for row in scores}
    assert all(scored[row["id"]]["nll"] == row["nll"] for row in rows(api.get(url)))


def test_the_report(api: httpx.Client, pruned: dict[str, Any]) -> None:
    answer = api.get(f"/v1/jobs/{pruned['id']}/report")
    assert answer.json()["documents"] == 120
    same = {"if-none-match": answer.headers["etag"]}
    assert api.get(f"/v1/jobs/{pruned['id']}/report", headers=same).status_code == 304


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_what_a_client_has_is_not_sent_again(api: httpx.Client, url: str, form: str) -> None:
    etag = api.head(url).headers["etag"]
    for method in ("GET", "HEAD"):
        answer = api.request(method, url, headers={"if-none-match": form.format(etag)})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert api.get(url, headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-5", slice(5, 6)),
        ("bytes=10-99999999", slice(10, None)),
        ("bytes=-99999999", slice(0, None)),
        ("Bytes = 3 - 4", slice(3, 5)),
    ],
)
def test_a_range(api: httpx.Client, url: str, content: bytes, header: str, expected: slice) -> None:
    answer = api.get(url, headers={"range": header})
    start, stop, _ = expected.indices(len(content))
    assert answer.status_code == 206
    assert answer.content == content[expected]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"
    assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("header", ["bytes=0-1,4-5", "items=0-1", "bytes=", "bytes=-", "bytes=9-2", "bytes=a-b"])
def test_a_range_that_is_none_gives_the_whole(api: httpx.Client, url: str, content: bytes, header: str) -> None:
    answer = api.get(url, headers={"range": header})
    assert (answer.status_code, answer.content) == (200, content)


@pytest.mark.parametrize("header", ["bytes=99999999-", "bytes=-0"])
def test_a_range_outside_the_file(api: httpx.Client, url: str, content: bytes, header: str) -> None:
    answer = api.get(url, headers={"range": header})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(content)}"
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_range_is_given_only_of_the_file_that_the_client_knows(api: httpx.Client, url: str, content: bytes) -> None:
    etag = api.head(url).headers["etag"]
    part = {"range": "bytes=0-3"}
    assert api.get(url, headers=part | {"if-range": etag}).status_code == 206
    for other in ('"other"', f"W/{etag}", "Mon, 23 Nov 2026 00:00:00 GMT"):
        assert api.get(url, headers=part | {"if-range": other}).content == content
    assert api.head(url, headers=part).status_code == 200


@pytest.mark.every_workspace
def test_a_download_that_broke_off_goes_on(api: httpx.Client, url: str, content: bytes) -> None:
    half = len(content) // 2
    rest = api.get(url, headers={"range": f"bytes={half}-"}).content
    assert content[:half] + rest == content


def test_wrong_formats_and_missing_files(api: httpx.Client, pruned: dict[str, Any], make_request: Any) -> None:
    base = f"/v1/jobs/{pruned['id']}"
    assert api.get(f"{base}/scores?format=jsonl").status_code == 422
    assert api.get(f"{base}/rejects?format=csv").status_code == 422
    assert api.get(f"{base}/selections/low-0.1/manifest").status_code == 404
    waiting = api.post("/v1/jobs", json=make_request().model_dump(mode="json")).json()["id"]
    for name in ("scores", "rejects", "report", "selections/medium-0.5/manifest"):
        answer = api.get(f"/v1/jobs/{waiting}/{name}")
        assert answer.status_code == 409
        assert "queued" in answer.json()["detail"]


def test_a_job_that_only_has_rejects_gives_them(
    api: httpx.Client, worker: PoolWorker, make_request: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "", "id": 1, "domain": "x"}\n[]\n')
    job = api.post("/v1/jobs", json=make_request(tmp_path / "a.jsonl").model_dump(mode="json")).json()["id"]
    while worker.once():
        pass
    assert "no document of 2 has a score" in api.get(f"/v1/jobs/{job}").json()["error"]["detail"]
    found = rows(api.get(f"/v1/jobs/{job}/rejects"))
    assert [row["reason"] for row in found] == ["empty text", "unreadable row: not a JSON object"]
    assert len(rows(api.get(f"/v1/jobs/{job}/scores"))) == 2
    for path in ("report", "selections/medium-0.5/manifest", "documents?rank=0"):
        assert api.get(f"/v1/jobs/{job}/{path}").status_code == 409

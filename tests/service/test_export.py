"""Exports over HTTP and from the command line: the kept rows as corpus files, resumed, replaced, refused."""

import gzip
import json
import os
import signal
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pruner.errors import InputError
from pruner.export.output_folder import MARKER_FILE, OutputFolder
from pruner.spec import CorpusSpec
from pruner.tables.storage import Storage
from service.commands.cli import main
from service.contract.permissions import Rules
from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.work import local, local_export
from tests.forked import Forked
from tests.service.api_server import client, serving
from tests.service.pool import until
from tests.service.test_prune import nothing

MakeRequest = Callable[..., JobRequest]


@pytest.fixture(scope="session")
def mixed_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parquet, JSON lines and compressed JSON lines, in folders."""
    folder = tmp_path_factory.mktemp("mixed")
    rows = [
        {"text": f"Document {number} says {'well ' * (number % 7 + 1)}", "id": f"d{number}"} for number in range(90)
    ]
    (folder / "a").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:40]), folder / "a" / "one.parquet", row_group_size=7, compression="zstd")
    (folder / "two.jsonl").write_text("".join(json.dumps(row) + "\r\n" for row in rows[40:60]))
    (folder / "a" / "three.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(r) + "\n" for r in rows[60:]).encode())
    )
    return folder


@pytest.fixture(scope="session")
def results(mixed_corpus: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of `winnow prune`."""
    out = tmp_path_factory.mktemp("pruned") / "out"
    request = JobRequest.model_validate(
        {
            "corpus": {"paths": [str(mixed_corpus)], "id_field": "id"},
            "reference": {"model": str(reference)},
            "selections": [{"criterion": "low", "rate": 0.5}],
        }
    )
    local.prune(request, out, "cpu", nothing)
    return out


def kept(results: Path) -> dict[str, list[int]]:
    """The rows that the manifest keeps, by path below the corpus root."""
    found: dict[str, list[int]] = {}
    for row in pq.read_table(results / "manifest-low-0.5.parquet", columns=["file", "row"]).to_pylist():
        found.setdefault(row["file"], []).append(row["row"])
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*arguments: object) -> int:
    return main(["export", *map(str, arguments)])


def test_an_export_has_the_kept_rows_of_each_file_under_its_name(
    results: Path, mixed_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(results, "--selection", "low-0.5", "--out", out) == 0
    assert "45 documents in 3 files" in capsys.readouterr().out
    files, rows = content(out), kept(results)
    assert set(files) == {"a/one.parquet", "a/three.jsonl.gz", "two.jsonl", "export.json", "README.md"}
    one = mixed_corpus / "a" / "one.parquet"
    assert pq.read_table(out / "a" / "one.parquet").equals(pq.read_table(one).take(rows[str(one)]))
    lines = (mixed_corpus / "two.jsonl").read_bytes().splitlines(keepends=True)
    assert files["two.jsonl"] == b"".join(lines[row] for row in rows[str(mixed_corpus / "two.jsonl")])
    three = mixed_corpus / "a" / "three.jsonl.gz"
    lines = gzip.decompress(three.read_bytes()).splitlines(keepends=True)
    assert gzip.decompress(files["a/three.jsonl.gz"]) == b"".join(lines[row] for row in rows[str(three)])
    about = json.loads(files["export.json"])
    assert about["selection"]["id"] == "low-0.5"
    assert about["documents"] == sum(file["rows"] for file in about["files"]) == 45
    assert {file["path"]: file["sha256"] for file in about["files"]} == {
        name: sha256(data).hexdigest() for name, data in files.items() if name not in ("export.json", "README.md")
    }
    assert {"reference", "scoring", "winnow"} <= set(about["provenance"])
    card = files["README.md"].decode()
    configs = {
        config["config_name"]: config["data_files"][0]["path"]
        for config in yaml.safe_load(card.split("---")[1])["configs"]
    }
    assert configs == {"jsonl": ["**/*.jsonl"], "jsonl.gz": ["**/*.jsonl.gz"], "parquet": ["**/*.parquet"]}
    assert f"winnow prune {mixed_corpus} --text-field text --id-field id --reference" in card
    assert "winnow export pruned --selection low-0.5 --format same --out exported" in card


def test_the_parts_of_a_huge_file_are_joined(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "huge.jsonl"
    long = "x" * (1 << 20)  # not scored: the file is cut into shards of some 32 MiB
    with corpus.open("w") as file:
        for number in range(100):
            file.write(
                json.dumps({"text": f"a text {number % 9} of {number % 7} words", "n": number, "other": long}) + "\n"
            )
    request = JobRequest.model_validate({"corpus": {"paths": [str(corpus)]}, "reference": {"model": str(reference)}})
    local.prune(request, tmp_path / "pruned", "cpu", nothing)
    rows = pq.read_table(tmp_path / "pruned" / "manifest-medium-0.5.parquet")["row"].to_pylist()
    assert min(rows) < 30 < 70 < max(rows)  # of several shards
    for target in ("same", "jsonl.gz"):
        out = tmp_path / target
        assert run(tmp_path / "pruned", "--selection", "medium-0.5", "--out", out, "--format", target) == 0
        (data,) = [data for name, data in content(out).items() if name.startswith("huge")]
        lines = (data if target == "same" else gzip.decompress(data)).splitlines()
        assert [json.loads(line)["n"] for line in lines] == rows
        assert json.loads((out / "export.json").read_text())["files"][0]["rows"] == len(rows)


def test_scores_are_added_and_formats_converted(results: Path, mixed_corpus: Path, tmp_path: Path) -> None:
    assert run(results, "--selection", "low-0.5", "--out", tmp_path, "--format", "parquet", "--scores") == 0
    manifest = pq.read_table(results / "manifest-low-0.5.parquet").to_pylist()
    found = [
        row for name in ("a/one", "a/three", "two") for row in pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
    ]
    assert [row["id"] for row in found] == [row["id"] for row in manifest]
    for row, expected in zip(found, manifest, strict=True):
        names = ("nll", "n_tokens", "n_bytes", "percentile")
        assert {name: row[f"winnow_{name}"] for name in names} == {name: expected[name] for name in names}


def test_all_exports_every_scored_document_that_did_not_train(
    mixed_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus").mkdir()
    bad = tmp_path / "corpus" / "bad.jsonl"
    good = (mixed_corpus / "two.jsonl").read_bytes()
    bad.write_bytes(good + b"{broken\n" + good.replace(b'"d4', b'"e4').replace(b'"d5', b'"e5'))
    train = {"train": {"preset": "tiny", "tokens": 2000, "fraction": 0.4, "seed": 1}}
    request = JobRequest.model_validate({"corpus": {"paths": [str(bad)], "id_field": "id"}, "reference": train})
    local.prune(request, tmp_path / "pruned", "cpu", nothing)
    assert run(tmp_path / "pruned", "--selection", "all", "--out", tmp_path / "out") == 0
    scores = pq.read_table(tmp_path / "pruned" / "scores" / "scores.parquet").to_pylist()
    expected = [row["id"] for row in scores if row["reject"] is None and not row["training"]]
    assert 0 < len(expected) < 40
    lines = (tmp_path / "out" / "bad.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["id"] for line in lines] == expected
    assert json.loads((tmp_path / "out" / "export.json").read_text())["selection"] == {"id": "all"}


def test_a_complete_export_is_not_made_again_and_not_replaced(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [results, "--selection", "low-0.5", "--out", tmp_path]
    assert run(*arguments) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run(*arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    capsys.readouterr()
    assert run(*arguments, "--scores") == 1
    assert "holds another export, which is complete" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "export.json").unlink()
    (tmp_path / "two.jsonl").unlink()
    assert run(*arguments) == 1  # without export.json and the marker, the files belong to no export
    assert "is not empty" in capsys.readouterr().err


def test_an_export_that_was_removed_is_made_again(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [results, "--selection", "low-0.5", "--out", out]
    assert run(*arguments) == 0
    first = content(out)
    for path in sorted(out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert run(*arguments) == 0
    assert content(out) == first


def test_a_killed_export_goes_on_and_ends_the_same(fork_server: None, results: Path, tmp_path: Path) -> None:
    assert run(results, "--selection", "low-0.5", "--out", tmp_path / "expected") == 0
    out = tmp_path / "out"
    command = ["export", str(results), "--selection", "low-0.5", "--out", str(out)]
    for wanted in (1, 2):
        process = Forked(main, command, env=os.environ)
        until(lambda: process.poll() is not None or len(content(out)) > wanted)  # the marker, and files  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert main(command) == 0
    assert content(out) == content(tmp_path / "expected")


def test_the_number_of_workers_changes_no_byte(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for workers in (1, 5):
        monkeypatch.setattr(local_export, "_cores", lambda workers=workers: workers)
        assert run(results, "--selection", "all", "--out", tmp_path / str(workers)) == 0
        found.append(content(tmp_path / str(workers)))
    assert found[0] == found[1]


def test_other_options_into_an_unfinished_export_begin_it_anew(results: Path, tmp_path: Path) -> None:
    assert run(results, "--selection", "low-0.5", "--out", tmp_path / "expected", "--format", "jsonl") == 0
    out = tmp_path / "out"
    assert run(results, "--selection", "low-0.5", "--out", out) == 0
    key = json.loads((out / "export.json").read_text())["key"]
    names = [name for name in content(out) if name not in ("export.json", "README.md")]
    (out / MARKER_FILE).write_text(json.dumps({"format": 1, "key": key, "files": names}))  # as killed before its end
    (out / "export.json").unlink()
    assert run(results, "--selection", "low-0.5", "--out", out, "--format", "jsonl") == 0
    assert content(out) == content(tmp_path / "expected")


def test_a_file_that_changed_since_it_was_scored_is_named(
    mixed_corpus: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("x.jsonl", "y.jsonl"):
        (corpus / name).write_bytes((mixed_corpus / "two.jsonl").read_bytes())
    request = JobRequest(corpus=CorpusSpec(paths=[str(corpus)]), reference={"model": str(reference)})  # type: ignore[arg-type]
    local.prune(request, tmp_path / "pruned", "cpu", nothing)
    (corpus / "y.jsonl").write_bytes((corpus / "y.jsonl").read_bytes().replace(b"well", b"bell"))
    assert run(tmp_path / "pruned", "--selection", "medium-0.5", "--out", tmp_path / "out") == 1
    assert "y.jsonl: changed since it was planned" in capsys.readouterr().err
    assert not (tmp_path / "out" / "export.json").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere", "--selection", "low-0.5", "--out", "x"], "no results of `winnow prune`"),
        (["RESULTS", "--selection", "high-0.5", "--out", "x"], "has no selection high-0.5; it has all, low-0.5"),
        (["RESULTS", "--selection", "low-0.5", "--out", "RESULTS"], "is not empty"),
    ],
)
def test_wrong_exports_are_refused(
    arguments: list[str],
    error: str,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*(str(results) if word == "RESULTS" else word for word in arguments)) == 1
    assert error in capsys.readouterr().err


def test_an_export_to_a_store(results: Path, tmp_path: Path, s3_url: str) -> None:
    arguments = [results, "--selection", "low-0.5", "--scores"]
    assert run(*arguments, "--out", tmp_path / "expected") == 0
    assert run(*arguments, "--out", f"{s3_url}/exported") == 0
    storage = Storage(f"{s3_url}/exported")
    found = {file.path: storage.read_bytes(file.path) for file in storage.files("")}
    assert found == content(tmp_path / "expected")
    assert run(*arguments, "--out", f"{s3_url}/exported") == 0
    assert run(*arguments, "--out", f"{s3_url}/exported", "--format", "jsonl") == 1


def test_a_service_writes_exports_under_its_roots_alone(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    rules = Rules(export_roots=(str(tmp_path / "root"), "s3://bucket/exports"))
    for out in (None, str(tmp_path / "root" / "new"), "s3://bucket/exports/new"):
        rules.check_out(out)
    for out in (
        str(tmp_path),
        f"{tmp_path}/root/../x",
        str(tmp_path / "root" / "link" / "x"),
        "s3://bucket/x",
        "gs://b/x",
    ):
        with pytest.raises(InputError):
            rules.check_out(out)
    with pytest.raises(InputError, match="to its workspace alone"):
        Rules().check_out(str(tmp_path))


def test_a_marker_of_others_and_links_lead_no_export_out_of_its_folder(tmp_path: Path) -> None:
    out, precious = tmp_path / "out", tmp_path / "precious"
    out.mkdir()
    precious.write_text("mine")
    (out / "link").symlink_to(tmp_path)
    folder = OutputFolder(Storage(str(out)), "mine")
    for name in ("../precious", str(precious), "a/../../precious", "link/precious"):
        (out / MARKER_FILE).write_text(json.dumps({"format": 1, "key": "other", "files": [name]}))
        with pytest.raises(InputError, match="out of the folder of the export"):
            folder.take([])
        (out / MARKER_FILE).write_text(json.dumps({"format": 1, "key": "other", "files": []}))
        with pytest.raises(InputError, match="out of the folder of the export"):
            folder.take([name])
    assert precious.read_text() == "mine"
    assert folder.inside("a/b.jsonl") == "a/b.jsonl"


def test_a_service_checks_the_place_of_an_export_when_it_is_asked_and_when_it_writes(
    jobs: Jobs, pruned: dict[str, Any], work_off: Callable[[], None], tmp_path: Path
) -> None:
    root, workspace = tmp_path / "root", jobs.workspace.storage.url
    root.mkdir()
    path = f"/v1/jobs/{pruned['id']}"
    with serving(jobs, Rules(export_roots=(str(root), workspace))) as url, client(url) as api:
        for out in (f"{workspace}/jobs/forged", workspace, str(tmp_path / "elsewhere")):
            refused = api.post(f"{path}/selections/medium-0.5/exports", json={"out": out})
            assert refused.status_code == 422, out
        asked = api.post(f"{path}/selections/medium-0.5/exports", json={"out": str(root / "new")}).json()
        (root / "new").symlink_to(tmp_path / "elsewhere")
        work_off()
        shown = api.get(f"{path}/exports/{asked['id']}").json()
    assert shown["status"] == "failed"
    assert "a link in it leads out of the export roots" in shown["error"]["detail"]
    assert not (tmp_path / "elsewhere").exists()


def test_an_export_over_http(
    api: httpx.Client, jobs: Jobs, pruned: dict[str, Any], work_off: Callable[[], None], tmp_path: Path
) -> None:
    made = pruned["selections"][0]
    path = f"/v1/jobs/{pruned['id']}"
    answer = api.post(f"{path}/selections/{made['id']}/exports", json={})
    assert answer.status_code == 202
    asked = answer.json()
    assert answer.headers["location"] == f"{path}/exports/{asked['id']}"
    assert (asked["status"], asked["files"], asked["format"]) == ("queued", [], "same")
    work_off()
    shown = api.get(f"{path}/exports/{asked['id']}").json()
    assert (shown["status"], shown["error"]) == ("succeeded", None)
    assert sum(file["rows"] for file in shown["files"]) == made["documents"] == shown["progress"]["documents_total"]
    assert api.get(f"{path}/exports").json()["data"] == [shown]
    for file in shown["files"]:
        got = api.get(f"{path}/exports/{asked['id']}/files/{file['path']}")
        assert sha256(got.content).hexdigest() == file["sha256"] == got.headers["etag"].strip('"')
    about = api.get(f"{path}/exports/{asked['id']}/files/export.json").json()
    assert about["files"] == shown["files"]
    assert api.get(f"{path}").json()["status"] == "succeeded"
    assert api.get(f"{path}").json()["selections"] == pruned["selections"]
    assert api.get(f"{path}/exports/{asked['id']}/files/%2e%2e/%2e%2e/job.json").status_code == 404
    assert api.get(f"{path}/exports/{asked['id']}/files/nothing").status_code == 404
    again = api.post(f"{path}/selections/{made['id']}/exports", json={})
    assert (again.status_code, again.json()["status"]) == (202, "succeeded")


def test_wrong_requests_for_exports(api: httpx.Client, pruned: dict[str, Any], make_request: MakeRequest) -> None:
    path = f"/v1/jobs/{pruned['id']}"
    assert api.get(f"{path}/exports").json() == {"data": []}
    assert api.get(f"{path}/exports/abcdef").status_code == 404
    unknown = api.post(f"{path}/selections/low-0.1/exports", json={})
    assert (unknown.status_code, "it has medium-0.5, all" in unknown.json()["detail"]) == (404, True)
    for body in ({"format": "tar"}, {"out": "/tmp/x"}, {"scores": 1}, {"more": 1}):
        assert api.post(f"{path}/selections/medium-0.5/exports", json=body).status_code == 422, body
    open_job = api.post("/v1/jobs", json=make_request().model_dump(mode="json")).json()
    early = api.post(f"/v1/jobs/{open_job['id']}/selections/medium-0.5/exports", json={})
    assert early.status_code == 409


def test_an_export_that_fails_says_why_and_can_be_tried_again(
    api: httpx.Client, work_off: Callable[[], None], make_request: MakeRequest, mixed_corpus: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "moved"
    corpus.mkdir()
    data = (mixed_corpus / "two.jsonl").read_bytes()
    file = corpus / "two.jsonl"
    file.write_bytes(data)
    written = file.stat()
    job = api.post("/v1/jobs", json=make_request(corpus={"paths": [str(corpus)]}).model_dump(mode="json")).json()
    work_off()
    path = f"/v1/jobs/{job['id']}"
    file.write_bytes(data + b"more\n")
    asked = api.post(f"{path}/selections/medium-0.5/exports", json={"format": "jsonl.gz"}).json()
    work_off()
    shown = api.get(f"{path}/exports/{asked['id']}").json()
    assert shown["status"] == "failed"
    assert f"{file}: changed since it was planned" in shown["error"]["detail"]
    assert api.get(path).json()["status"] == "succeeded"
    file.write_bytes(data)
    os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert api.post(f"{path}/selections/medium-0.5/exports", json={"format": "jsonl.gz"}).json()["status"] != "failed"
    work_off()
    assert api.get(f"{path}/exports/{asked['id']}").json()["status"] == "succeeded"

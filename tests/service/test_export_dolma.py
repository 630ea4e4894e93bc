"""Exports of attributes for the Dolma toolkit: a line for each row of the corpus, beside its documents."""

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

from pruner.errors import InputError
from service.commands.cli import main
from service.contract.permissions import Rules
from service.contract.schemas import ExportOptions, JobRequest
from service.work import local
from tests.forked import Forked
from tests.pruner.exports import unzstd
from tests.service.pool import until
from tests.service.test_prune import nothing

MakeRequest = Callable[..., JobRequest]
DECODERS: dict[str, Callable[[bytes], bytes]] = {".jsonl": bytes, ".gz": gzip.decompress, ".zst": unzstd}
NAMES = ["a/empty.jsonl", "a/one.jsonl", "a/rejects.jsonl", "b/two.json.gz", "b/three.jsonl.zst"]
Lines = list[dict[str, Any]]


def write_documents(folder: Path) -> None:
    """Small files of JSON lines, which share a shard: of one no row is kept, and one has no rows."""
    rows: Lines = [
        {"id": f"d{number}", "text": f"Dokument Nº {number} sagt {'schön ' * (number % 7 + 1)}", "source": "x"}
        for number in range(90)
    ]
    rows[3]["text"] = ""
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    (folder / "a" / "one.jsonl").write_bytes(b"".join(lines[:40]))
    (folder / "b" / "two.json.gz").write_bytes(gzip.compress(b"".join(lines[40:65])))
    (folder / "b" / "three.jsonl.zst").write_bytes(pa.compress(b"".join(lines[65:]), "zstd", asbytes=True))
    (folder / "a" / "rejects.jsonl").write_bytes(b'{"id": "r0", "text": ""}\n{"id": "r1", "text": null}\n')
    (folder / "a" / "empty.jsonl").write_bytes(b"")


def prune(corpus: Path, out: Path, reference: Any, **options: Any) -> Path:
    body = {"corpus": {"paths": [str(corpus)], **options}, "reference": reference}
    local.prune(JobRequest.model_validate(body | {"selections": [{"criterion": "low"}]}), out, "cpu", nothing)
    return out


@pytest.fixture(scope="module")
def dolma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a corpus of the toolkit."""
    root = tmp_path_factory.mktemp("dolma")
    write_documents(root / "documents")
    return root


@pytest.fixture(scope="module")
def results(dolma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of `winnow prune`, with a reference that some of the documents trained."""
    train = {"train": {"preset": "tiny", "tokens": 2000, "fraction": 0.3, "seed": 1}}
    return prune(dolma / "documents", tmp_path_factory.mktemp("pruned") / "out", train, id_field="id")


def run(*arguments: object) -> int:
    return main(["export", *map(str, arguments), "--format", "dolma"])


def read(path: Path) -> Lines:
    return [json.loads(line) for line in DECODERS[path.suffix](path.read_bytes()).splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_row_has_a_line_that_says_whether_it_is_kept(
    results: Path, dolma: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(results, "--selection", "low-0.5", "--out", dolma) == 0
    manifest = pq.read_table(results / "manifest-low-0.5.parquet").to_pylist()
    assert f"{len(manifest)} documents in 5 files" in capsys.readouterr().out
    kept = {(row["file"], row["row"]) for row in manifest}
    root = dolma / "attributes" / "low-0.5"
    assert set(content(root)) == {*NAMES, "export.json", "README.md"}
    for name in NAMES:
        path = dolma / "documents" / name
        assert read(root / name) == [
            {
                "id": row["id"],
                "attributes": {
                    "winnow_kept": [[0, len((row["text"] or "").encode()), int((str(path), number) in kept)]]
                },
            }
            for number, row in enumerate(read(path))
        ]
    about = json.loads((root / "export.json").read_text())
    assert about["documents"] == len(manifest) == sum(file["rows"] for file in about["files"]) > 10
    assert {file["path"]: file["rows"] for file in about["files"]} == {
        name: sum(file == str(dolma / "documents" / name) for file, _ in kept) for name in NAMES
    }
    for file in about["files"]:
        assert file["sha256"] == sha256((root / file["path"]).read_bytes()).hexdigest()


def test_scores_are_attributes_too(results: Path, tmp_path: Path) -> None:
    assert run(results, "--selection", "low-0.5", "--out", tmp_path, "--scores") == 0
    rows = pq.read_table(results / "scores" / "scores.parquet").to_pylist()
    kept = {row["id"]: row for row in pq.read_table(results / "manifest-low-0.5.parquet").to_pylist()}
    assert {row["training"] for row in rows} == {True, False}
    found = {
        line["id"]: line["attributes"] for name in NAMES for line in read(tmp_path / "attributes" / "low-0.5" / name)
    }
    assert len(found) == len(rows)
    for row in rows:
        values = {name: row[name] for name in ("nll", "n_tokens", "n_bytes")}
        values |= {"kept": int(row["id"] in kept), "percentile": kept.get(row["id"], {}).get("percentile")}
        end = row["n_bytes"] or 0
        assert found[row["id"]] == {
            f"winnow_{name}": [[0, end, value]] for name, value in values.items() if value is not None
        }


def test_all_marks_what_selections_choose_from(results: Path, tmp_path: Path) -> None:
    assert run(results, "--selection", "all", "--out", tmp_path) == 0
    rows = pq.read_table(results / "scores" / "scores.parquet").to_pylist()
    found = [line for name in NAMES for line in read(tmp_path / "attributes" / "all" / name)]
    assert {line["id"] for line in found if line["attributes"]["winnow_kept"][0][2]} == {
        row["id"] for row in rows if row["reject"] is None and not row["training"]
    }


@pytest.mark.parametrize("below", ["", "documents", "documents/a"])
def test_files_are_named_by_their_path_below_documents(below: str, reference: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "in" / "documents")
    (tmp_path / "in" / "documents" / "b" / "three.jsonl.zst").unlink()
    pruned = prune(tmp_path / "in" / below, tmp_path / "pruned", {"model": str(reference)}, id_field="id")
    assert run(pruned, "--selection", "low-0.5", "--out", tmp_path / "out") == 0
    names = {name for name in NAMES if name.startswith("a/") or below != "documents/a"} - {"b/three.jsonl.zst"}
    assert set(content(tmp_path / "out" / "attributes" / "low-0.5")) == {*names, "export.json", "README.md"}


def test_a_corpus_without_documents_has_its_names(reference: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "in")
    pruned = prune(tmp_path / "in", tmp_path / "pruned", {"model": str(reference)}, id_field="id")
    assert run(pruned, "--selection", "low-0.5", "--out", tmp_path / "out") == 0
    assert set(content(tmp_path / "out" / "attributes" / "low-0.5")) == {*NAMES, "export.json", "README.md"}


def test_selections_stand_side_by_side_and_a_complete_one_stays(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for selection in ("low-0.5", "all"):
        assert run(results, "--selection", selection, "--out", tmp_path) == 0
    before = content(tmp_path)
    assert {name.split("/")[1] for name in before} == {"low-0.5", "all"}
    assert run(results, "--selection", "low-0.5", "--out", tmp_path) == 0
    capsys.readouterr()
    assert run(results, "--selection", "low-0.5", "--out", tmp_path, "--scores") == 1
    assert f"{tmp_path}/attributes/low-0.5: holds another export, which is complete" in capsys.readouterr().err
    assert content(tmp_path) == before


def test_a_killed_export_goes_on_and_ends_the_same(fork_server: None, results: Path, tmp_path: Path) -> None:
    assert run(results, "--selection", "low-0.5", "--out", tmp_path / "expected") == 0
    out = tmp_path / "out"
    command = ["export", str(results), "--selection", "low-0.5", "--format", "dolma", "--out", str(out)]
    for wanted in (1, 3):
        process = Forked(main, command, env=os.environ)
        until(lambda: process.poll() is not None or len(content(out)) > wanted)  # the marker, and files  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert main(command) == 0
    assert content(out) == content(tmp_path / "expected")


def test_a_file_that_changed_since_it_was_scored_is_named(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_documents(tmp_path / "documents")
    pruned = prune(tmp_path / "documents", tmp_path / "pruned", {"model": str(reference)}, id_field="id")
    os.utime(tmp_path / "documents" / NAMES[2], ns=(1, 1))  # a file without a kept row
    assert run(pruned, "--selection", "low-0.5", "--out", tmp_path) == 1
    assert "a/rejects.jsonl: changed since it was planned" in capsys.readouterr().err
    assert not (tmp_path / "attributes" / "low-0.5" / "export.json").exists()


def without_ids(_root: Path) -> dict[str, Any]:
    return {}


def other_ids(_root: Path) -> dict[str, Any]:
    return {"id_field": "source"}


def with_parquet(root: Path) -> dict[str, Any]:
    pq.write_table(pa.table({"id": ["x"], "text": ["A text of words."]}), root / "documents" / "z.parquet")
    return {"id_field": "id"}


def two_folders(root: Path) -> dict[str, Any]:
    (root / "more" / "documents").mkdir(parents=True)
    (root / "more" / "documents" / "z.jsonl").write_text('{"id": "x", "text": "A text of words."}\n')
    return {"id_field": "id"}


@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        (without_ids, "the format `dolma` needs a job whose id_field is 'id'"),
        (other_ids, "but it is 'source'"),
        (with_parquet, "documents/z.parquet: is no file of JSON lines, which the format `dolma` needs"),
        (two_folders, "more/documents/z.jsonl: do not lie in one folder `documents`"),
    ],
)
def test_other_corpora_are_refused_before_any_work(
    prepare: Callable[[Path], dict[str, Any]],
    error: str,
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_documents(tmp_path / "in" / "documents")
    options = prepare(tmp_path / "in")
    pruned = prune(tmp_path / "in", tmp_path / "pruned", {"model": str(reference)}, **options)
    assert run(pruned, "--selection", "low-0.5", "--out", tmp_path / "in") == 1
    assert error in capsys.readouterr().err
    assert not (tmp_path / "in" / "attributes").exists()


def test_a_service_follows_no_link_out_of_its_roots(tmp_path: Path) -> None:
    for name in ("root", "linked", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "linked" / "attributes").symlink_to(tmp_path / "elsewhere")
    rules = Rules(export_roots=(str(tmp_path / "root"), str(tmp_path / "linked")))
    rules.check_out(ExportOptions(format="dolma", out=str(tmp_path / "root")).root("low-0.5"))
    with pytest.raises(InputError, match="export root"):
        rules.check_out(ExportOptions(format="dolma", out=str(tmp_path / "linked")).root("low-0.5"))


def test_attributes_over_http(
    api: httpx.Client, work_off: Callable[[], None], make_request: MakeRequest, tmp_path: Path
) -> None:
    write_documents(tmp_path / "documents")
    corpus = {"paths": [str(tmp_path / "documents")], "id_field": "id"}
    job = api.post("/v1/jobs", json=make_request(corpus=corpus).model_dump(mode="json")).json()
    work_off()
    path = f"/v1/jobs/{job['id']}"
    made = api.get(path).json()["selections"][0]
    asked = api.post(f"{path}/selections/{made['id']}/exports", json={"format": "dolma"}).json()
    work_off()
    shown = api.get(f"{path}/exports/{asked['id']}").json()
    assert (shown["status"], shown["format"], shown["error"]) == ("succeeded", "dolma", None)
    assert {file["path"] for file in shown["files"]} == set(NAMES)
    assert sum(file["rows"] for file in shown["files"]) == made["documents"]
    for file in shown["files"]:
        got = api.get(f"{path}/exports/{asked['id']}/files/{file['path']}")
        assert sha256(got.content).hexdigest() == file["sha256"]
    assert api.get(f"{path}/exports/{asked['id']}/files/export.json").json()["files"] == shown["files"]

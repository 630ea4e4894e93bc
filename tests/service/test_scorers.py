"""Further scorers of a job: their columns in all files, shared parts, permissions, and what is wrong with a request."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from pruner.spec import SelectionSpec
from pruner.tables.part_file import read_part
from pruner.tables.shard_scores import ShardCounts
from scorer.causal_lm.reference import load
from scorer.engine.score_texts import score_texts
from scorer.prior import TokenPrior
from service.commands.cli import main
from service.contract.permissions import Rules
from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.kinds import documents, passes, prior, scores
from tests.scorer.classifier_folders import make_classifier, own_values
from tests.scorer.model_folders import change_json
from tests.service.artefacts import files_of, results
from tests.service.pool import sentence

WorkOff = Callable[[], None]
DOCUMENTS = 60
COLUMNS = ["edu", "edu_int", "big", "big_nll", "big_n_tokens", "quality"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, reference: Path) -> dict[str, Path]:
    """A classifier, and a further reference with the tokenizer of the session's."""
    folder = tmp_path_factory.mktemp("models")
    make_classifier(folder / "edu")
    shutil.copytree(reference, folder / "big")
    weights = load_file(folder / "big" / "model.safetensors")
    changed = {name: np.asarray(w * np.float32(1.3), w.dtype) for name, w in weights.items()}
    save_file(changed, folder / "big" / "model.safetensors", {"format": "pt"})
    return {"edu": folder / "edu", "big": folder / "big"}


def quality(row: int) -> Any:
    """A field of mixed types: numbers, and what is none."""
    return {3: None, 5: "high", 7: True, 11: math.inf, 13: [1.0]}.get(row, row / 4 if row % 2 else row)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON lines with a field of mixed types, Parquet with it as a column, and a file that lacks it."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [{"id": str(row), "text": sentence(row, 1 + row * 7 % 30), "meta": {"q": quality(row)}} for row in range(20)]
    rows[17]["text"] = ""
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = [str(row) for row in range(20, DOCUMENTS)]
    texts = [sentence(int(row), 30) for row in ids]
    numbers = pa.array([None if row == "33" else int(row) for row in ids[:20]], pa.int32())
    inside = pa.StructArray.from_arrays([numbers], ["q"])
    pq.write_table(pa.table({"id": ids[:20], "text": texts[:20], "meta": inside}), folder / "b.parquet")
    pq.write_table(pa.table({"id": ids[20:], "text": texts[20:]}), folder / "c.parquet")
    return folder


@pytest.fixture
def body(corpus: Path, reference: Path, models: dict[str, Path]) -> dict[str, Any]:
    """A job with a further scorer of each kind."""
    return {
        "corpus": {"paths": [str(corpus)], "id_field": "id"},
        "reference": {"model": str(reference)},
        "scores": {
            "edu": {"classifier": str(models["edu"])},
            "big": {"reference": str(models["big"])},
            "quality": {"field": "meta.q"},
        },
    }


def texts_of(corpus: Path) -> list[str]:
    rows = [json.loads(line) for line in (corpus / "a.jsonl").read_text().splitlines()]
    tables = [pq.read_table(corpus / name) for name in ("b.parquet", "c.parquet")]
    return [row["text"] for row in rows] + [text for table in tables for text in table["text"].to_pylist()]


def test_a_job_with_a_scorer_of_each_kind(
    api: httpx.Client, jobs: Jobs, work_off: WorkOff, body: dict[str, Any], corpus: Path, reference: Path
) -> None:
    job = api.post("/v1/jobs", json=body).json()
    assert job["request"]["scores"]["quality"]["field"] == "meta.q"
    work_off()
    done = api.get(f"/v1/jobs/{job['id']}").json()
    assert done["status"] == "succeeded", done["error"]
    (tmp := corpus.parent / f"{job['id']}.parquet").write_bytes(api.get(f"/v1/jobs/{job['id']}/scores").content)
    table = pq.read_table(tmp)
    assert table.schema.field("edu").type == pa.float32()
    assert [table.schema.field(name).type for name in COLUMNS[1:]] == [
        pa.int64(),
        pa.float64(),
        pa.float64(),
        pa.int64(),
        pa.float64(),
    ]
    rows = table.to_pylist()
    texts = texts_of(corpus)
    scored = [row for row, text in zip(rows, texts, strict=True) if text]
    assert rows[17]["reject"] == "empty text"
    assert rows[17]["edu"] is None is rows[17]["big"]
    expected = own_values(Path(body["scores"]["edu"]["classifier"]), [text for text in texts if text])
    np.testing.assert_allclose([row["edu"] for row in scored], expected, atol=2e-4, rtol=0)
    assert [row["edu_int"] for row in scored] == [round(max(0, min(row["edu"], 5))) for row in scored]
    numbers = [quality(row) if row not in (3, 5, 7, 11, 13) else None for row in range(20)]
    numbers += [None if row == 33 or row >= 40 else row for row in range(20, DOCUMENTS)]
    assert [row["quality"] for row in rows] == numbers
    for name, folder in (("", reference), ("big_", Path(body["scores"]["big"]["reference"]))):
        for row, text in zip(scored, score_texts(load(folder), [text for text in texts if text]), strict=True):
            assert row[f"{name}nll"] == pytest.approx(text.total, abs=1e-3)
            assert row[f"{name}n_tokens"] == text.n_tokens
            if name:
                assert row["big"] == row["big_nll"] / row["big_n_tokens"]
            else:
                assert row["surprisal_sq"] == pytest.approx((text.nll**2).sum(), abs=1e-2)
                assert row["surprisal_max"] == pytest.approx(text.nll.max(), abs=1e-3)
                assert row["share_8"] == pytest.approx((text.nll > 8).mean(), abs=1e-9)
    tokenizer = load(reference).tokenizer
    counts = TokenPrior.empty(tokenizer)
    counts.add(tokenizer.encode(texts))  # of so small a corpus all texts are counted
    mean, deviation = counts.measure(tokenizer.encode([text for text in texts if text]))
    np.testing.assert_allclose([row["prior_mean"] for row in scored], mean, rtol=1e-12)
    np.testing.assert_allclose([row["prior_std"] for row in scored], deviation, rtol=1e-9)

    url = done["selections"][0]["manifest_url"]
    kept = [json.loads(line) for line in api.get(f"{url}?format=jsonl").iter_lines()]
    by_id = {row["id"]: row for row in rows}
    assert all(row[name] == by_id[row["id"]][name] for row in kept for name in ("id", *COLUMNS))
    report = api.get(f"/v1/jobs/{job['id']}/report").json()
    lacking = {name: sum(row[name] is None for row in scored) for name in ("edu", "big", "quality")}
    assert report["lacking"] == lacking == {"edu": 0, "big": 0, "quality": 26}
    about = done["provenance"]["scores"]
    assert about["edu"]["scorers"][0]["architecture"] == "BertForSequenceClassification"
    assert about["big"]["scorers"][0]["sha256"] != done["provenance"]["reference"]["sha256"]
    assert about["quality"]["field"] == "meta.q"


def test_parts_are_the_same_whichever_pass_makes_them(jobs: Jobs, work_off: WorkOff, body: dict[str, Any]) -> None:
    """As after a kill: some parts are there and the others are made by tasks of their own."""
    job, _ = jobs.create(JobRequest.model_validate(body))
    work_off()
    expected = results(jobs.workspace, jobs.get(job.id))
    files, storage = files_of(jobs.workspace, job.id), jobs.workspace.storage
    assert files.model is not None
    gone = [documents.paths(files)[0], prior.paths(files)[0]]
    gone += [scores.paths(files, found)[0] for found in scores.further(files).values()]
    first = {path: storage.read_bytes(path) for path in gone}
    for path in [*gone, f"jobs/{job.id}/outcome.json"]:
        storage.remove(path)
    for folder in ("index", "report", "selection", "field", "classifier"):
        storage.remove_tree(folder)
    jobs.queue.forget(job.id)
    jobs.lifecycle.advance(job.id)
    work_off()
    again = jobs.get(job.id)
    assert again.status == "succeeded", again.error
    assert {path: storage.read_bytes(path) for path in gone} == first
    assert results(jobs.workspace, again) == expected


def test_a_further_reference_shares_the_scores_of_jobs_by_it(
    jobs: Jobs, work_off: WorkOff, body: dict[str, Any]
) -> None:
    job, _ = jobs.create(JobRequest.model_validate(body))
    work_off()
    files = files_of(jobs.workspace, job.id)
    (found,) = scores.further(files).values()
    table, _ = read_part(jobs.workspace.storage, scores.paths(files, found)[0], ShardCounts)
    alone = body | {"reference": {"model": body["scores"]["big"]["reference"]}, "scores": {}}
    other, _ = jobs.create(JobRequest.model_validate(alone))
    work_off()
    model = files_of(jobs.workspace, other.id).model
    assert model is not None
    assert scores.paths(files_of(jobs.workspace, other.id), model)[0] == scores.paths(files, found)[0]
    assert len(table) == DOCUMENTS
    assert jobs.get(other.id).status == "succeeded"


def test_the_commands_write_the_columns(body: dict[str, Any], tmp_path: Path) -> None:
    options = [
        *("--score", f"edu=classifier:{body['scores']['edu']['classifier']}"),
        *("--score", f"big=reference:{body['scores']['big']['reference']}"),
        *("--score", "quality=field:meta.q"),
        *("--reference", body["reference"]["model"], "--id-field", "id", "--device", "cpu"),
    ]
    (paths,) = body["corpus"]["paths"]
    assert main(["score", paths, *options, "--out", str(tmp_path / "scores.parquet")]) == 0
    scored = pq.read_table(tmp_path / "scores.parquet")
    assert set(COLUMNS) < set(scored.column_names)
    out = tmp_path / "pruned"
    assert main(["prune", paths, *options, "--rate", "0.3", "--out", str(out)]) == 0
    assert pq.read_table(out / "scores" / "scores.parquet").equals(scored)
    manifest = pq.read_table(out / "manifest-medium-0.3.parquet")
    assert manifest.column_names[-6:] == COLUMNS
    export = ["export", str(out), "--selection", "medium-0.3", "--scores", "--format", "jsonl"]
    assert main([*export, "--out", str(tmp_path / "kept")]) == 0
    lines = [json.loads(line) for path in (tmp_path / "kept").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == len(manifest)
    kept = {row["id"]: row for row in manifest.to_pylist()}
    for line in lines:
        assert {name: line[f"winnow_{name}"] for name in COLUMNS} == {name: kept[line["id"]][name] for name in COLUMNS}


@pytest.mark.parametrize(
    ("scorers", "field", "message"),
    [
        ({"edu": {}}, "scores.edu", "exactly one of"),
        ({"edu": {"classifier": "a", "field": "b"}}, "scores.edu", "exactly one of"),
        ({"edu": {"field": ""}}, "scores.edu.field", "must not be empty"),
        ({"edu": {"field": "a", "windows": "all"}}, "scores.edu", "are for a classifier"),
        ({"edu": {"classifier": "a", "aggregate": "max"}}, "scores.edu", "with windows 'all'"),
        ({"edu": {"model": "a"}}, "scores.edu.model", "is not a known field"),
        ({"perplexity": {"field": "a"}}, "scores", "'perplexity' is reserved"),
        ({"all": {"field": "a"}}, "scores", "'all' is reserved"),
        ({"n_bytes": {"field": "a"}}, "scores", "'n_bytes' is reserved"),
        ({"edu": {"classifier": "a"}, "edu_int": {"field": "b"}}, "scores", "would both have a column 'edu_int'"),
        ({"Score": {"field": "a"}, "score": {"field": "b"}}, "scores", "'score' and 'Score' would both have a column"),
        ({"Row": {"field": "a"}}, "scores", "'Row' is reserved"),
        ({"winnow_nll": {"field": "a"}}, "scores", "'winnow_nll' is reserved"),
        ({"winnow": {"reference": "a"}}, "scores", "'winnow_nll', which 'winnow' would have as a column, is"),
        ({"1st": {"field": "a"}}, "scores.1st", "1st must start with a letter, and have only letters, digits"),
        ([{"field": "a"}], "scores", "scores must be an object"),
    ],
)
def test_wrong_scorers_are_named(
    api: httpx.Client, body: dict[str, Any], scorers: dict[str, Any], field: str, message: str
) -> None:
    answer = api.post("/v1/jobs", json=body | {"scores": scorers})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert message in answer.json()["detail"]


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ({"classifier": "/no/such/folder"}, "classifier '/no/such/folder': there is no such folder"),
        ({"reference": "/no/such/folder"}, "reference '/no/such/folder': there is no such folder"),
    ],
)
def test_a_model_that_is_not_there_fails_the_job(
    api: httpx.Client, work_off: WorkOff, body: dict[str, Any], scorer: dict[str, str], message: str
) -> None:
    job = api.post("/v1/jobs", json=body | {"scores": {"edu": scorer}}).json()
    work_off()
    done = api.get(f"/v1/jobs/{job['id']}").json()
    assert done["status"] == "failed"
    assert message in done["error"]["detail"]


def test_a_reference_is_no_classifier(jobs: Jobs, work_off: WorkOff, body: dict[str, Any]) -> None:
    wrong = {"edu": {"classifier": body["reference"]["model"]}}
    job, _ = jobs.create(JobRequest.model_validate(body | {"scores": wrong}))
    work_off()
    failed = jobs.get(job.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert "is no sequence-classification model" in str(failed.error.detail)


def test_further_models_lie_under_the_model_roots(body: dict[str, Any], models: dict[str, Path]) -> None:
    request = JobRequest.model_validate(body)
    roots = (str(models["edu"].parent), str(Path(body["reference"]["model"]).parent))
    assert Rules(model_roots=roots).access_for(request).scorers == {}
    with pytest.raises(Exception, match=r"scores\.edu: unknown model"):
        Rules(model_roots=roots[1:]).access_for(request)
    named = Rules(model_roots=roots[1:], models={"fineweb": str(models["edu"])})
    body["scores"] = {"edu": {"classifier": "fineweb"}}
    access = named.access_for(JobRequest.model_validate(body))
    assert access.source("fineweb", "edu") == str(models["edu"])
    access.check_model(models["edu"], "edu")


def test_the_passes_of_a_job(jobs: Jobs, body: dict[str, Any]) -> None:
    job, _ = jobs.create(JobRequest.model_validate(body))
    expected = ["scores", "scores/big", "prior/documents", "classifier/edu", "documents", "field/quality"]
    assert passes.of(files_of(jobs.workspace, job.id)) == expected


# -- selections by a score
def ranked(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """The documents of an order: by value, file, row; those without a value or with a reject are in none."""
    there = [row for row in rows if row["reject"] is None and row[column] is not None]
    return sorted(there, key=lambda row: (row[column], row["file"], row["row"]))


def kept_ids(api: httpx.Client, made: dict[str, Any]) -> list[str]:
    return [json.loads(line)["id"] for line in api.get(f"{made['manifest_url']}?format=jsonl").iter_lines()]


def test_selections_by_scores(
    api: httpx.Client, jobs: Jobs, work_off: WorkOff, body: dict[str, Any], tmp_path: Path
) -> None:
    columns = ["edu", "edu_int", "big", "quality", "perplexity", "n_bytes", "surprisal_sq", "share_8", "prior_std"]
    asked = [{"criterion": "high", "rate": 0.3, "score": column} for column in columns]
    job = api.post("/v1/jobs", json=body | {"selections": asked}).json()
    work_off()
    done = api.get(f"/v1/jobs/{job['id']}").json()
    assert done["status"] == "succeeded", done["error"]
    assert [made["id"] for made in done["selections"]] == [f"high-0.3-{column}" for column in columns]
    (tmp_path / "scores.parquet").write_bytes(api.get(f"/v1/jobs/{job['id']}/scores").content)
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    for column, made in zip(columns, done["selections"], strict=True):
        order = ranked(rows, column)
        keep = math.floor(0.3 * len(order) + 0.5)
        expected = order[len(order) - keep :]
        assert (made["documents"], made["tokens"]) == (keep, sum(row["n_tokens"] for row in expected))
        assert sorted(kept_ids(api, made)) == sorted(row["id"] for row in expected)
    later = {"criterion": "low", "rate": 0.5, "unit": "tokens", "score": "surprisal_max"}
    before = api.get(f"/v1/jobs/{job['id']}/preview", params=later).json()  # ranked for it
    jobs.add_selection(job["id"], SelectionSpec.model_validate(later))
    work_off()
    preview = api.get(f"/v1/jobs/{job['id']}/preview", params=later).json()
    assert preview == before
    total = sum(row["n_tokens"] for row in ranked(rows, "surprisal_max"))
    assert 0 < preview["tokens"] <= total / 2
    first = api.get(f"/v1/jobs/{job['id']}/documents", params={"score": "surprisal_max", "count": 3}).json()["data"]
    assert [row["id"] for row in first] == [row["id"] for row in ranked(rows, "surprisal_max")[:3]]


def test_selections_by_several_scores(api: httpx.Client, jobs: Jobs, work_off: WorkOff, body: dict[str, Any]) -> None:
    stages = [{"score": "quality", "at_least": 5}, {"score": "edu", "criterion": "high", "rate": 0.5}]
    specs = [
        {"name": "staged", "stages": stages},
        {"difference": ["perplexity", "big"], "criterion": "low"},
        {"name": "ranks", "rank_sum": [["edu", 1], ["perplexity", -1]], "criterion": "high", "rate": 0.25},
        "fineweb-edu-2",
        "paper-dolma",
    ]
    job = api.post("/v1/jobs", json=body | {"selections": specs}).json()["id"]
    work_off()
    done = api.get(f"/v1/jobs/{job}").json()
    assert done["status"] == "succeeded", done["error"]
    made = {each["id"]: each for each in done["selections"]}
    assert [*made] == ["staged", "low-0.5-perplexity-minus-big", "ranks", "fineweb-edu-2", "paper-dolma"]
    assert made["staged"]["stages"] == stages

    def kept(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in api.get(f"{made[name]['manifest_url']}?format=jsonl").iter_lines()]

    assert min(row["quality"] for row in kept("staged")) >= 5
    assert {row["percentile"] for row in kept("fineweb-edu-2")} == {None}
    assert min(row["edu_int"] for row in kept("fineweb-edu-2")) >= 2
    assert len(kept("paper-dolma")) == made["paper-dolma"]["documents"]
    for name, each in made.items():
        preview = api.get(f"/v1/jobs/{job}/preview", params={"selection": name}).json()
        assert {field: preview[field] for field in ("documents", "tokens")} == {
            field: each[field] for field in ("documents", "tokens")
        }
        assert api.get(f"/jobs/{job}", params={"selection": name}).status_code == 200
    assert "by several scores" in api.get(f"/jobs/{job}/report.html").text
    other = api.post(f"/v1/jobs/{job}/selections", json={"name": "ranks", "criterion": "low"})
    assert (other.status_code, "another name" in other.json()["detail"]) == (409, True)
    unknown = api.post(f"/v1/jobs/{job}/selections", json={"difference": ["perplexity", "edu"], "criterion": "low"})
    assert (unknown.status_code, "'edu' is no reference" in unknown.json()["detail"]) == (422, True)


def test_a_difference_counts_tokens_where_both_references_cut_texts_alike(
    api: httpx.Client, work_off: WorkOff, body: dict[str, Any], models: dict[str, Path], tmp_path: Path
) -> None:
    other = shutil.copytree(models["big"], tmp_path / "other")
    change_json(other / "tokenizer_config.json", model_max_length=77, chat_template="{{ messages }}")
    change_json(other / "tokenizer.json", truncation=None, post_processor=None)
    asked = {"difference": ["perplexity", "other"], "criterion": "low", "rate": 0.3}
    scores = {"other": {"reference": str(other)}}
    job = api.post("/v1/jobs", json=body | {"scores": scores, "selections": [asked]}).json()["id"]
    work_off()
    (made,) = api.get(f"/v1/jobs/{job}").json()["selections"]
    (tmp_path / "scores.parquet").write_bytes(api.get(f"/v1/jobs/{job}/scores").content)
    rows = [row for row in pq.read_table(tmp_path / "scores.parquet").to_pylist() if row["nll"] is not None]

    def lowest(first: str, second: str) -> list[str]:
        ordered = sorted(rows, key=lambda row: row["nll"] / row[first] - row["other_nll"] / row[second])
        return sorted(row["id"] for row in ordered[: made["documents"]])

    assert sorted(kept_ids(api, made)) == lowest("n_tokens", "other_n_tokens") != lowest("n_bytes", "n_bytes")


def test_a_job_without_a_reference(api: httpx.Client, work_off: WorkOff, body: dict[str, Any], tmp_path: Path) -> None:
    selections = [{"criterion": "high", "rate": 0.25, "score": "edu"}, {"criterion": "low", "score": "quality"}]
    request = {"corpus": body["corpus"], "selections": [*selections, {"criterion": "random", "rate": 0.5}]}
    request["scores"] = {name: body["scores"][name] for name in ("edu", "quality")}
    job = api.post("/v1/jobs", json=request).json()
    assert job["request"]["reference"] is None
    work_off()
    done = api.get(f"/v1/jobs/{job['id']}").json()
    assert done["status"] == "succeeded", done["error"]
    assert (done["progress"]["documents_done"], done["progress"]["rejects"]) == (DOCUMENTS, 1)
    (tmp_path / "scores.parquet").write_bytes(api.get(f"/v1/jobs/{job['id']}/scores").content)
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert all(row[name] is None for row in rows for name in ("nll", "n_tokens", "perplexity", "surprisal_sq"))
    assert [row["reject"] for row in rows if row["reject"]] == ["empty text"]
    edu, quality_, drawn = done["selections"]
    assert sorted(kept_ids(api, edu)) == sorted(row["id"] for row in ranked(rows, "edu")[-15:])
    assert sorted(kept_ids(api, quality_)) == sorted(row["id"] for row in ranked(rows, "quality")[:17])
    assert (edu["perplexity_min"], drawn["documents"]) == (None, 30)
    report = api.get(f"/v1/jobs/{job['id']}/report").json()
    assert report["perplexity"]["quantiles"] == {}
    assert report["lacking"] == {"edu": 0, "quality": 26}
    assert report["eligible"] == {"documents": DOCUMENTS - 1, "tokens": 0}
    parts = ("preview?criterion=high&rate=0.2&score=edu", "documents?score=edu", "documents?seed=0", "histogram")
    for path in (f"/jobs/{job['id']}", "/", *(f"/v1/jobs/{job['id']}/{part}" for part in parts)):
        assert api.get(path).status_code == 200, path
    for wrong in ({"criterion": "high"}, {"score": "edu", "unit": "tokens"}, {"per": "byte"}, {"score": "perplexity"}):
        answer = api.post(f"/v1/jobs/{job['id']}/selections", json=wrong)
        assert answer.status_code == 422
        assert "the job has no reference" in answer.json()["detail"] or "is none of the job's" in answer.text


@pytest.mark.parametrize(
    ("selection", "field", "message"),
    [
        ({"stages": [{"at_least": 1}]}, "stages.0", "thresholds are on a score: give 'score'"),
        ({"stages": [{"score": "edu", "at_least": "3"}]}, "stages.0.at_least", "at_least must be a number"),
        ({"stages": []}, "stages", "stages must not be empty"),
        ({"difference": ["perplexity"]}, "difference.1", "difference must have at least 2 items"),
        ({"difference": "big"}, "difference", "difference must be a list"),
        ({"rank_sum": [["edu", 1.5]]}, "rank_sum.0.1", "rank_sum must be a whole number"),
        ({"name": "a/b"}, "name", "name must have only letters, digits, '.', '_' and '-'"),
    ],
)
def test_wrong_selections_are_named_once(
    api: httpx.Client, body: dict[str, Any], selection: dict[str, Any], field: str, message: str
) -> None:
    answer = api.post("/v1/jobs", json=body | {"selections": [selection]})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == f"selections.0.{field}"
    assert message in error["message"]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"score": "big_int"}, "a classifier 'big' would give it"),
        ({"score": "nothing"}, "score 'nothing' is none of the job's: it has perplexity, edu, edu_int, big, quality,"),
        ({"score": "edu", "per": "byte"}, "leave out 'per' or 'score'"),
        ({"criterion": "random", "score": "edu"}, "leave out 'score'"),
    ],
)
def test_wrong_scores_of_selections_are_named(
    api: httpx.Client, body: dict[str, Any], selection: dict[str, Any], message: str
) -> None:
    answer = api.post("/v1/jobs", json=body | {"selections": [{}, selection]})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["selections.1"]
    assert message in answer.json()["detail"]


def test_a_job_whose_selections_need_a_reference_trains_one(body: dict[str, Any]) -> None:
    common = {"corpus": body["corpus"], "scores": body["scores"]}
    by_score = {"score": "edu"}
    for selections in ([by_score, {}], [{"score": "perplexity"}], [{"score": "share_8"}, by_score], None):
        asked = common if selections is None else common | {"selections": selections}
        request = JobRequest.model_validate(asked)
        assert request.train is not None, selections
        assert JobRequest.model_validate_json(request.model_dump_json()) == request
    without = JobRequest.model_validate(common | {"selections": [by_score]})
    assert without.reference is None
    assert JobRequest.model_validate_json(without.model_dump_json()) == without


def test_a_further_reference_alone(jobs: Jobs, work_off: WorkOff, body: dict[str, Any]) -> None:
    request = {"corpus": body["corpus"], "scores": {"big": body["scores"]["big"]}, "selections": [{"score": "big"}]}
    job, _ = jobs.create(JobRequest.model_validate(request))
    assert passes.of(files_of(jobs.workspace, job.id)) == ["scores/big", "documents"]
    work_off()
    done = jobs.get(job.id)
    assert done.status == "succeeded", done.error
    assert (done.progress.documents_done, done.selections[0].documents) == (DOCUMENTS, 30)


def test_tokens_are_counted_in_all_documents_where_the_sample_has_none(
    corpus: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(name: str) -> list[list[float]]:
        given = ["score", str(corpus), "--reference", str(reference), "--device", "cpu", "--out", str(tmp_path / name)]
        assert main(given) == 0
        table = pq.read_table(tmp_path / name)
        return [table[column].to_pylist() for column in ("prior_mean", "prior_std")]

    whole = measured("whole.parquet")  # so small a corpus is counted as a whole
    monkeypatch.setattr(prior, "_LEAST_BYTES", 0)
    monkeypatch.setattr(prior, "_FRACTION", 1e-12)
    assert measured("sample.parquet") == whole


def test_commands_without_a_reference(body: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (paths,) = body["corpus"]["paths"]
    options = ["--score", "quality=field:meta.q", "--device", "cpu"]
    (tmp_path / "selection.json").write_text(json.dumps({"criterion": "low", "rate": 0.5, "score": "quality"}))
    out = tmp_path / "pruned"
    named = ["--selection", str(tmp_path / "selection.json")]
    for unused in ("--unit=tokens", "--unit=documents", "--within=domain", "--per=byte", "--random-seed=0"):
        with pytest.raises(SystemExit) as refused:
            main(["prune", paths, *options, *named, unused, "--out", str(out)])
        assert refused.value.code == 2
    assert main(["score", paths, "--score", "q=field:scroe", "--out", str(tmp_path / "none.parquet")]) == 1
    assert main(["prune", paths, *options, *named, "--out", str(out)]) == 0
    assert "without a value: quality 26 of 59 documents\n" in capsys.readouterr().out
    manifest = pq.read_table(out / "manifest-low-0.5-quality.parquet")
    assert len(manifest) == 17
    assert manifest["nll"].null_count == 17
    ignored = ["--stride", "8", "--dtype", "float32"]
    assert main(["score", paths, *options, *ignored, "--out", str(tmp_path / "scores.parquet")]) == 0
    said = capsys.readouterr()
    assert "without a value: quality 26 of 59 documents\n" in said.out
    warnings = said.err
    assert "warning: --stride has no effect: it is for references" in warnings
    assert "warning: --dtype has no effect: it is for models" in warnings
    assert pq.read_table(tmp_path / "scores.parquet").equals(pq.read_table(out / "scores" / "scores.parquet"))
    export = ["export", str(out), "--selection", "low-0.5-quality", "--scores", "--out", str(tmp_path / "kept")]
    assert main(export) == 0
    lines = (tmp_path / "kept" / "a.jsonl").read_text().splitlines()
    assert all(json.loads(line)["winnow_nll"] is None for line in lines)
    assert {json.loads(line)["winnow_quality"] for line in lines} <= set(manifest["quality"].to_pylist())

"""A job without a server: the service's bytes, files where the user wants them, resumed after a kill."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.errors import InputError
from pruner.spec import CorpusSpec
from pruner.tables import table_files
from scorer.training.names import FILES
from service.contract.names import Status
from service.contract.schemas import ExportOptions, JobRequest, Progress
from service.contract.scorers import STATISTICS
from service.jobs.jobs import Jobs
from service.work import local as prune
from service.work.local_export import export_selection
from service.work.local_train import Recipe, train
from service.work.pool_worker import PoolWorker
from tests.forked import Forked
from tests.service.artefacts import manifest_path, table_path
from tests.service.pool import until, write_corpus

MakeRequest = Callable[..., JobRequest]
TRAIN = {"train": {"preset": "tiny", "tokens": 3000, "fraction": 0.3, "seed": 1}}


def nothing(_status: Status, _progress: Progress) -> None:
    pass


def test_prune_gives_the_services_bytes(
    jobs: Jobs, worker: PoolWorker, make_request: MakeRequest, tmp_path: Path
) -> None:
    selections = [
        {"criterion": "medium", "rate": 0.5},
        {"criterion": "low", "rate": 0.2, "unit": "tokens"},
        {"criterion": "high", "rate": 0.2, "per": "byte"},
        {"criterion": "random", "rate": 0.2, "within": "domain"},
    ]
    request = make_request(reference=TRAIN, selections=selections)
    job, _ = jobs.create(request)
    while worker.once():
        pass
    served = jobs.get(job.id)
    out = tmp_path / "out"
    pruned = prune.prune(request, out, "cpu", nothing)
    for made in served.selections:
        path = manifest_path(jobs.workspace, job.id, made.id)
        assert (out / f"manifest-{made.id}.parquet").read_bytes() == jobs.workspace.storage.read_bytes(path)
    for name, at in (("scores.parquet", "scores/scores.parquet"), ("rejects.parquet", "rejects.parquet")):
        assert (out / at).read_bytes() == jobs.workspace.storage.read_bytes(table_path(jobs.workspace, job.id, name))
    assert pruned.provenance == served.provenance
    assert pruned.reference is not None
    assert pruned.reference == served.reference
    said = json.loads((out / "reference" / "training.json").read_text())
    assert pruned.reference.model_dump() == {name: said[name] for name in type(pruned.reference).model_fields}
    assert pruned.provenance["reference"]["training"] == pruned.reference.model_dump()
    assert [(s.id, s.documents) for s in pruned.selections] == [(s.id, s.documents) for s in served.selections]
    assert pruned.progress.documents_done == served.progress.documents_done == 120


def test_what_prune_leaves(make_request: MakeRequest, tmp_path: Path) -> None:
    seen: list[Status] = []
    prune.prune(make_request(reference=TRAIN), tmp_path, "cpu", lambda status, _: seen.append(status))
    names = {path.name for path in tmp_path.iterdir() if path.name != ".winnow"}
    assert names == {"manifest-medium-0.5.parquet", "scores", "rejects.parquet", "report.json", "reference"}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in (tmp_path / "reference").iterdir()
    }
    shown = [status for status in dict.fromkeys(seen) if status != "selecting"]  # which may be too short to be seen
    assert shown == ["planning", "training", "scoring"]


def test_large_results_are_folders_of_parts(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selections = [{"criterion": "medium", "rate": 0.5}, {"criterion": "low", "rate": 0.2}]
    request = make_request(reference=TRAIN, selections=selections)

    def found(out: Path) -> dict[str, pa.Table]:
        tables = {path.name: pq.read_table(path) for path in [*out.glob("manifest-*.parquet"), out / "scores"]}
        return {name: table.replace_schema_metadata(None) for name, table in tables.items()}

    def export(out: Path) -> dict[str, bytes]:
        target = out.with_name(f"{out.name}-exported")
        export_selection(out, "medium-0.5", ExportOptions(out=str(target)), lambda _: None)
        return {path.name: path.read_bytes() for path in target.glob("*.parquet")}

    files, folders = tmp_path / "files", tmp_path / "folders"
    prune.prune(request, files, "cpu", nothing)
    whole = found(files)
    monkeypatch.setattr(table_files, "ONE_FILE_ROWS", 30)
    for _ in range(2):  # the second time over the results of the first
        prune.prune(request, folders, "cpu", nothing)
        assert found(folders).keys() == whole.keys()
        assert all(found(folders)[name].equals(table) for name, table in whole.items())
        assert [path.name for path in (folders / "manifest-medium-0.5.parquet").iterdir()] == ["part-00000.parquet"]
        assert [path.name for path in (folders / "scores").iterdir()] == ["part-00000.parquet"]
        assert (folders / "manifest-low-0.2.parquet").is_file()
    assert export(folders) == export(files) != {}
    prune.prune(make_request(reference=TRAIN, selections=[{"criterion": "high"}]), folders, "cpu", nothing)
    assert (folders / "manifest-medium-0.5.parquet").is_dir()
    (folders / "manifest-medium-0.5.parquet" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"manifest-medium-0\.5\.parquet: the command would write here"):
        prune.prune(request, folders, "cpu", nothing)


def test_a_large_score_table_is_a_folder(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.parquet"
    prune.score(make_request(), out, "cpu", nothing)
    whole = pq.read_table(out)
    monkeypatch.setattr(table_files, "ONE_FILE_ROWS", 30)
    for _ in range(2):
        prune.score(make_request(), out, "cpu", nothing)
        assert [path.name for path in out.iterdir()] == ["part-00000.parquet"]
        assert pq.read_table(out).equals(whole)


def test_what_was_made_of_other_scores_goes(make_request: MakeRequest, reference: Path, tmp_path: Path) -> None:
    def names(**asked: object) -> set[str]:
        prune.prune(make_request(**asked), tmp_path, "cpu", nothing)
        return {path.name for path in tmp_path.iterdir() if path.is_dir() or path.name.startswith("manifest")}

    low, high = [{"criterion": "low"}], [{"criterion": "high"}]
    always = {".winnow", "scores"}
    assert names(reference=TRAIN, selections=low) == {"manifest-low-0.5.parquet", "reference"} | always
    given = {"model": str(reference)}
    assert names(reference=given, selections=high) == {"manifest-high-0.5.parquet"} | always
    first = (tmp_path / "manifest-high-0.5.parquet").read_bytes()
    names(reference=TRAIN, selections=high)
    assert (tmp_path / "manifest-high-0.5.parquet").read_bytes() != first
    both = {"manifest-low-0.5.parquet", "manifest-high-0.5.parquet"}
    assert names(reference=given, selections=low) == both | always
    assert (tmp_path / "manifest-high-0.5.parquet").read_bytes() == first


def test_a_killed_prune_goes_on(fork_server: None, make_request: MakeRequest, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", files=3, documents=80, words=300)
    request = make_request(corpus)
    out = tmp_path / "out"
    process = Forked(prune.prune, request, out, "cpu", nothing, env=os.environ)
    until(lambda: list(out.glob(".winnow/scores/*/*.parquet")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob(".winnow/scores/*/*.parquet")}
    job = prune.prune(request, out, "cpu", nothing)
    assert job.progress.documents_done == 240
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


def test_a_corpus_that_changed_is_another_job(make_request: MakeRequest, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", files=1)
    assert prune.prune(make_request(corpus), tmp_path / "out", "cpu", nothing).progress.documents_done == 40
    write_corpus(corpus, files=2)
    assert prune.prune(make_request(corpus), tmp_path / "out", "cpu", nothing).progress.documents_done == 80


def test_of_jobs_with_the_same_results_the_newest_is_exported(make_request: MakeRequest, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", files=1)
    for number in range(1, 5):
        for file in corpus.iterdir():
            os.utime(file, (number, number))
        prune.prune(make_request(corpus), tmp_path / "out", "cpu", nothing)
        options = ExportOptions(out=str(tmp_path / f"kept-{number}"))
        assert export_selection(tmp_path / "out", "medium-0.5", options, lambda _: None).files


def test_a_model_that_changed_is_another_job(make_request: MakeRequest, reference: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    corpus, model = write_corpus(tmp_path / "corpus", files=1), tmp_path / "model"
    shutil.copytree(reference, model)
    request = make_request(corpus, reference={"model": str(model)})
    prune.prune(request, tmp_path / "out", "cpu", nothing)
    before = pq.read_table(tmp_path / "out" / "scores")["nll"].to_pylist()
    weights = model / "model.safetensors"
    save_file({name: 1.5 * tensor for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    prune.prune(request, tmp_path / "out", "cpu", nothing)
    assert pq.read_table(tmp_path / "out" / "scores")["nll"].to_pylist() != before


def test_scores_only(make_request: MakeRequest, tmp_path: Path) -> None:
    done = prune.score(make_request(), tmp_path / "scores.parquet", "cpu", nothing).job.progress
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.num_rows == done.documents_done == 120
    columns = ["file", "row", "id", "domain", "n_tokens", "nll", "perplexity", "n_bytes", "training", "reject"]
    assert sorted(table.column_names) == sorted([*columns, *STATISTICS])


def test_of_a_corpus_of_rejects_the_tables_are_left(make_request: MakeRequest, tmp_path: Path) -> None:
    corpus = tmp_path / "a.jsonl"
    corpus.write_text('{"text": null, "id": 1, "domain": 1}\n{"text": ""}\n{"txt": "x"}\n')
    with pytest.raises(InputError, match="no document of 3 has a score"):
        prune.prune(make_request(corpus), tmp_path / "out", "cpu", nothing)
    assert pq.read_table(tmp_path / "out" / "rejects.parquet")["row"].to_pylist() == [0, 1, 2]
    done = prune.score(make_request(corpus), tmp_path / "scores.parquet", "cpu", nothing).job.progress
    assert (done.documents_done, done.rejects) == (3, 3)
    assert pq.read_table(tmp_path / "scores.parquet")["reject"].null_count == 0


def test_results_in_the_corpus_are_no_part_of_it(make_request: MakeRequest, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", files=1)
    (corpus / "README.md").write_text("About.")
    selections = [{"criterion": "low"}], [{"criterion": "high"}]
    for out in (corpus, corpus / "out"):
        for selection in selections:
            job = prune.prune(make_request(corpus, selections=selection), out, "cpu", nothing)
            assert job.progress.documents_done == 40
            assert job.corpus is not None
            assert job.corpus.files == 1
            left = {left.reason: left.files for left in job.corpus.left_out}
            assert left["documentation"] == 1
        shutil.rmtree(corpus)
        write_corpus(corpus, files=1)
        (corpus / "README.md").write_text("About.")
    for _ in range(2):
        scored = prune.score(make_request(corpus), corpus / "scores.parquet", "cpu", nothing).job
        assert scored.progress.documents_done == 40


def test_files_of_the_user_beside_the_results_are_read(make_request: MakeRequest, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", files=1)
    names = ["manifest-2024.jsonl", "report.jsonl", "scores/mine.jsonl", "reference/mine.jsonl", "out-1.jsonl"]
    for name in names:
        (corpus / name).parent.mkdir(exist_ok=True)
        (corpus / name).write_text('{"text": "a few words of the user"}\n')
    for selection in [{"criterion": "low"}], [{"criterion": "high"}]:
        for reference in {}, {"reference": TRAIN}:
            job = prune.prune(make_request(corpus, selections=selection, **reference), corpus, "cpu", nothing)
            assert job.corpus is not None
            assert job.corpus.files == 1 + len(names)
    assert all((corpus / name).read_text().startswith('{"text"') for name in names)


def test_a_name_that_begins_as_the_output_is_read(make_request: MakeRequest, tmp_path: Path) -> None:
    (tmp_path / "op").mkdir()
    for name in ("out-1.jsonl", "out.jsonl"):
        (tmp_path / "op" / name).write_text('{"text": "a few words", "id": 1, "domain": "x"}\n')
    for _ in range(2):
        job = prune.score(make_request(tmp_path / "op"), tmp_path / "op/out", "cpu", nothing).job
        assert job.progress.documents_done == 2


@pytest.mark.parametrize("name", ["report.json", "manifest-medium-0.5.parquet", "scores/scores.parquet", "scores"])
def test_a_file_of_the_user_is_not_overwritten(make_request: MakeRequest, tmp_path: Path, name: str) -> None:
    corpus = write_corpus(tmp_path / "corpus", files=1)
    (corpus / name).parent.mkdir(exist_ok=True)
    (corpus / name).write_text('{"text": "words of the user"}\n')
    for _ in range(2):
        with pytest.raises(InputError, match=rf"corpus/{name}: .* is not its earlier result"):
            prune.prune(make_request(corpus), corpus, "cpu", nothing)
    assert (corpus / name).read_text() == '{"text": "words of the user"}\n'
    (corpus / name).unlink()
    for _ in range(2):
        assert prune.prune(make_request(corpus), corpus, "cpu", nothing).progress.documents_done == 40


def test_scores_and_models_replace_only_scores_and_models(
    corpus: Path, make_request: MakeRequest, reference: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "words of the user"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl: .* is not its earlier result"):
        prune.score(make_request(tmp_path / "a.jsonl"), tmp_path / "a.jsonl", "cpu", nothing)
    model = shutil.copytree(reference, tmp_path / "model")
    (model / "training.json").unlink(missing_ok=True)
    for _ in range(2):
        with pytest.raises(InputError, match=r"model\.safetensors: .* is not its earlier result"):
            train(CorpusSpec(paths=(str(corpus),)), Recipe("tiny", 3000, 0), model, "cpu", nothing)
    assert (model / "config.json").read_bytes() == (reference / "config.json").read_bytes()


def test_documents_without_id_or_domain_are_counted(make_request: MakeRequest, tmp_path: Path) -> None:
    rows = ['{"text": "a b c", "id": 1}', '{"text": "b c d", "domain": "x"}', '{"text": "c d"}', '{"text": null}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    prune.prune(make_request(tmp_path / "a.jsonl"), tmp_path / "out", "cpu", nothing)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["missing_ids"], report["missing_domains"]) == (2, 2)
    assert report["warnings"][0] == "2 of 4 documents have no id (corpus.id_field is 'id')"


def test_training_only(corpus: Path, make_request: MakeRequest, tmp_path: Path) -> None:
    out = tmp_path / "model"
    for _ in range(2):
        train(CorpusSpec(paths=(str(corpus),)), Recipe("tiny", 3000, 0), out, "cpu", nothing)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name for path in out.iterdir()} == set(FILES)
    prune.score(make_request(reference={"model": str(out)}), tmp_path / "scores.parquet", "cpu", nothing)


def test_two_prunes_do_not_share_a_folder(make_request: MakeRequest, tmp_path: Path) -> None:
    def again(_status: Status, _progress: Progress) -> None:
        prune.prune(make_request(), tmp_path, "cpu", nothing)

    with pytest.raises(InputError, match="another winnow is at work"):
        prune.prune(make_request(), tmp_path, "cpu", again)


def test_a_full_disk_is_said_in_one_line(make_request: MakeRequest, small_disk: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", files=1, documents=1_500, words=4)
    (small_disk / "filler").write_bytes(b"x" * 1_960_000)
    with pytest.raises(InputError, match=r"^no space left .*small") as error:
        prune.prune(make_request(corpus), small_disk / "out", "cpu", nothing)
    assert "\n" not in str(error.value)
    (small_disk / "filler").unlink()
    assert prune.prune(make_request(corpus), small_disk / "out", "cpu", nothing).status == "succeeded"

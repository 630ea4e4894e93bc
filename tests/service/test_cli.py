"""The command line: what it prints, the files it leaves, and its exit status, as a shell's user meets them."""

import gzip
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from service.commands.cli import COMMANDS
from service.contract.scorers import STATISTICS
from tests.scorer.mamba2_folders import native_config, native_weights
from tests.service.pool import write_corpus
from tests.service.shell import Ran, Run

WINNOW = [sys.executable, "-m", "service.commands.cli"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.status == 0
    assert ran.out.startswith(f"usage: winnow {command}")


def test_help_lists_the_commands(run: Run) -> None:
    shown = run("--help").out
    assert all(command in shown for command in COMMANDS)
    assert run("--version").out.startswith("winnow ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "COMMAND"),
        ("winnow", "invalid choice: 'winnow'"),
        ("prune", "PATH, --out"),
        ("prune x", "--out"),
        ("prune x --out y --rate 0", "selections.rate must be over 0"),
        ("prune x --out y --rate 1.5", "selections.rate must be at most 1"),
        ("prune x --out y --rate half", "--rate: invalid float value: 'half'"),
        ("prune x --out y --select best", "invalid choice: 'best'"),
        ("prune x --out y --fraction 1", "under 1"),
        ("prune x --out=", "name a file or a folder"),
        ("prune x --out s3://bucket/x", "'s3://bucket/x' is a URL: name a local path"),
        ("prune x --out y --device tpu", "unknown device 'tpu': use auto, cpu or cuda"),
        ("prune x --out y --tokens none", "not a whole number"),
        ("prune x --out y --tokens 5", "reference.train.tokens"),
        ("prune x --out y --reference m --preset tiny", "--preset trains a reference and --reference names one"),
        ("prune x --out y --within domain", "domain_field"),
        ("prune x --out y --select random --per byte", "--per is for low, medium and high"),
        ("prune x --out y --per token", "invalid choice: 'token'"),
        ("prune x --out y --random-seed 3", "--random-seed is for --select random"),
        ("prune x --out y --select random --random-seed -1", "seed must be at least 0"),
        ("prune x --out y --select paper-pile --rate 0.3", "--rate is for --select low, medium, high or random"),
        ("prune x --out y --score é=field:q", "scores.é must start with a letter"),
        ("submit x --select random --per byte", "--per is for low, medium and high"),
        ("prune x --out y --stride 0", "scoring.stride must be at least 1"),
        ("prune x --out y --nonsense", "--nonsense"),
        ("score x --out y", "--reference"),
        ("score . --reference m --out .", "is a folder"),
        ("score - --reference m --id-field id", "--id-field is for a corpus"),
        ("score - --reference m --exclude *.txt", "--exclude is for a corpus"),
        ("train x --preset huge --out y", "invalid choice: 'huge'"),
        ("train x --tokens 999 --out y", "tokens must be at least 1000"),
        ("train x --seed -1 --out y", "seed must be at least 0"),
        ("train x --preset tiny --from m --out y", "--preset starts a new model and --from goes on with one"),
        ("train x --optimizer sgd --out y", "invalid choice: 'sgd'"),
        ("train x --gpus 0 --out y", "--gpus must be at least 1"),
        ("submit x --idempotency-key é", "ASCII"),
        ("serve --workspace w --model a=", "NAME=FOLDER"),
        ("convert x", "--out"),
        ("serve", "--workspace"),
        ("serve --workspace w --port 99999", "--port (or WINNOW_PORT) must be at most 65535"),
        ("serve --workspace w --workers -1", "--workers"),
        ("serve --workspace w --device tpu", "--device"),
        ("worker --workspace w", "--redis"),
        ("worker --workspace w --redis redis://x --resources light,paint", "--resources"),
        ("worker --workspace w --redis nonsense", "redis://, rediss:// or unix://"),
        ("watch", "JOB"),
        ("status --server localhost:8000", "http://127.0.0.1:8000"),
        ("status --server ftp://x", "http://127.0.0.1:8000"),
        ("download x --format csv", "invalid choice: 'csv'"),
        ("ablate j --server http://x --selection a --out y --device cpu", "--device is for an ablation here"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(run: Run, arguments: str, said: str) -> None:
    ran = run(*arguments.split())
    assert ran.status == 2
    assert said in ran.line
    assert "--help" in ran.line
    assert ran.out == ""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"criterion": "low", "rate": 0.5, "rate": 0.1}', "the key 'rate' is there twice"),
        ("[]", "must hold one JSON object"),
        ('{"criterion": "low", "rate": "0.5"}', "selections.rate must be a number"),
        ('{"criterion": "low", "rate": 0.5, "name": "\\ud800"}', "selections.name must be text, without half of a"),
    ],
)
def test_a_wrong_file_of_a_selection_is_one_line_and_status_2(run: Run, tmp_path: Path, data: str, said: str) -> None:
    (tmp_path / "selection.json").write_text(data)
    ran = run("prune", "x", "--selection", tmp_path / "selection.json", "--out", "y")
    assert (ran.status, said in ran.line) == (2, True)


def test_a_wrong_variable_is_one_line_and_status_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_DEVICE", "tpu")
    ran = run("prune", "x", "--out", "y")
    assert (ran.status, "WINNOW_DEVICE" in ran.line) == (2, True)


@pytest.fixture
def broken(tmp_path: Path, corpus: Path) -> Path:
    """A folder of inputs that cannot be pruned."""
    whole = (corpus / "part-0.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "some words"}\n' * 500)[:-20])
    (tmp_path / "lines.jsonl").write_text('{"body": "some words"}\n' * 3)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "notes.txt").touch()
    mamba1 = tmp_path / "mamba1"
    mamba1.mkdir()
    (mamba1 / "config.json").write_text(json.dumps(native_config() | {"ssm_cfg": {}}))
    (mamba1 / "tokenizer.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing.parquet", "missing.parquet: no such file or folder"),
        ("*.parquets", "there is no file"),
        ("notes.txt", "text that is not JSON lines"),
        ("empty.jsonl", "the corpus is empty"),
        ("cut.parquet", "cut.parquet: not a whole Parquet file"),
        ("cut.jsonl.gz", "cut.jsonl.gz: cannot be read (it is truncated)"),
        ("lines.jsonl", "no field 'text'"),
    ],
)
def test_a_wrong_corpus_is_one_line_and_status_1(run: Run, broken: Path, reference: Path, path: str, said: str) -> None:
    ran = run("prune", broken / path, "--reference", reference, "--out", broken / "out")
    assert ran.status == 1
    assert said in ran.line
    assert not list((broken / "out").glob("manifest*"))


def test_a_wrong_field_or_reference_or_output(run: Run, broken: Path, corpus: Path, reference: Path) -> None:
    out = broken / "out"
    assert "'txt'" in run("prune", corpus, "--text-field", "txt", "--reference", reference, "--out", out).line
    for command in ("prune", "score"):
        out = broken / f"{command}.out"
        ran = run(command, corpus, "--reference", broken / "nowhere", "--out", out)
        assert (ran.status, "nowhere" in ran.line) == (1, True)
        assert "Mamba-1" in run(command, corpus, "--reference", broken / "mamba1", "--out", out).line
    ran = run("prune", corpus, "--reference", reference, "--out", broken / "notes.txt")
    assert (ran.status, "notes.txt" in ran.line) == (1, True)


def prune(run: Run, corpus: Path, reference: Path, out: Path, *more: str) -> Ran:
    fields = ("--id-field", "id", "--domain-field", "domain")
    ran = run("prune", corpus, *fields, "--reference", reference, "--out", out, *more)
    assert ran.status == 0, ran.err
    return ran


def test_prune_leaves_what_is_promised(run: Run, corpus: Path, reference: Path, tmp_path: Path) -> None:
    sweep = ("--select", "low", "--select", "high", "--rate", "0.5", "--rate", "0.25")
    out = tmp_path / "out[/b]"  # markup of rich in a path is plain text
    ran = prune(run, corpus, reference, out, *sweep)
    made = ["low-0.5", "low-0.25", "high-0.5", "high-0.25"]
    found = {str(p.relative_to(out)) for p in out.rglob("*.*") if ".winnow" not in p.parts}
    expected = {f"manifest-{name}.parquet" for name in made}
    assert found - {".winnow"} == expected | {"scores/scores.parquet", "rejects.parquet", "report.json"}
    manifests = {name: pq.read_table(out / f"manifest-{name}.parquet") for name in made}
    assert [len(manifest) for manifest in manifests.values()] == [60, 30, 60, 30]
    for word in (*made, "web", "code", "before", "120 documents", "share", f"Results in {out}"):
        assert word in ran.out
    assert ran.err == ""


def test_prune_for_a_script(run: Run, corpus: Path, reference: Path, tmp_path: Path) -> None:
    answer = json.loads(prune(run, corpus, reference, tmp_path / "out", "--json").out)
    (made,) = answer["selections"]
    manifest = pq.read_table(tmp_path / "out" / "manifest-medium-0.5.parquet")
    assert (made["id"], made["documents"]) == ("medium-0.5", len(manifest))
    assert made["tokens"] == sum(manifest["n_tokens"].to_pylist())
    assert answer["report"] == json.loads((tmp_path / "out" / "report.json").read_bytes())


def test_another_selection_finds_the_scores_that_are_there(
    run: Run, corpus: Path, reference: Path, tmp_path: Path
) -> None:
    prune(run, corpus, reference, tmp_path / "out", "--select", "low")
    scored = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / ".winnow" / "scores").rglob("*.parquet")}
    prune(run, corpus, reference, tmp_path / "out", "--select", "high")
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / ".winnow" / "scores").rglob("*.parquet")}
    assert scored == again != {}
    assert {path.name for path in (tmp_path / "out").glob("manifest*")} == {
        "manifest-low-0.5.parquet",
        "manifest-high-0.5.parquet",
    }


def test_the_results_of_another_corpus_are_not_removed_without_a_word(
    run: Run, corpus: Path, reference: Path, tmp_path: Path
) -> None:
    other, out = write_corpus(tmp_path / "other", files=1), tmp_path / "out"
    assert prune(run, other, reference, out).err == ""
    warned = prune(run, corpus, reference, out)
    assert warned.line.startswith("warning: removed the results of another corpus or reference")
    assert warned.line.endswith(": manifest-medium-0.5.parquet")
    assert prune(run, corpus, reference, out).err == ""


def test_prune_trains_where_no_reference_is_named(run: Run, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    ran = run("prune", corpus, "--tokens", "2e3", "--fraction", "0.3", "--out", tmp_path / "out")
    assert ran.status == 0, ran.err
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "out" / "reference").iterdir()
    }
    scores = pq.read_table(tmp_path / "out" / "scores" / "scores.parquet")
    trained = {(r["file"], r["row"]) for r in scores.to_pylist() if r["training"]}
    kept = pq.read_table(tmp_path / "out" / "manifest-medium-0.5.parquet").to_pylist()
    assert trained
    assert not trained & {(row["file"], row["row"]) for row in kept}
    assert "trained the reference" in ran.out


def test_score_gives_every_document_in_one_file(run: Run, corpus: Path, reference: Path, tmp_path: Path) -> None:
    nameless = tmp_path / "nameless.jsonl"
    nameless.write_text('{"text": "some words"}\n')
    out = tmp_path / "scores.parquet"
    ran = run("score", corpus, nameless, "--id-field", "id", "--reference", reference, "--out", out)
    assert ran.status == 0, ran.err
    table = pq.read_table(tmp_path / "scores.parquet")
    columns = ["file", "row", "id", "domain", "n_tokens", "nll", "perplexity", "n_bytes", *STATISTICS]
    assert table.schema.names == [*columns, "training", "reject"]
    assert table["id"].to_pylist() == [*(f"doc-{i}" for i in range(120)), None]
    assert "121 documents" in ran.out
    assert "warning: 1 of 121 documents have no id" in ran.out


def test_train_saves_a_folder_that_others_load(run: Run, corpus: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ran = run("train", corpus, "--preset", "tiny", "--tokens", "2000", "--out", tmp_path / "model")
    assert ran.status == 0, ran.err
    assert AutoTokenizer.from_pretrained(tmp_path / "model").bos_token_id is not None
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1  # who may read one may read all


def test_train_counts_rows_that_are_no_documents(run: Run, corpus: Path, tmp_path: Path) -> None:
    rows = '{"text": "a good one"}\n{"text": ""}\n{"text": 7}\n{"text": null}\n{"text\n'
    (tmp_path / "more.jsonl").write_text(rows)
    ran = run(
        "train", corpus, tmp_path / "more.jsonl", "--preset", "tiny", "--tokens", "2000", "--out", tmp_path / "model"
    )
    assert ran.status == 0, ran.err
    kinds = "empty text 1, not text 2, unreadable row 1"
    assert f"left out: 4 of the rows that were read, which are no documents ({kinds})" in ran.out


def test_train_goes_on_from_a_given_model(run: Run, corpus: Path, reference: Path, tmp_path: Path) -> None:
    options = ("--tokens", "2000", "--optimizer", "muon", "--out", tmp_path / "model")
    ran = run("train", corpus, "--from", reference, *options)
    assert ran.status == 0, ran.err
    assert "bits per held-out byte" in ran.err
    said = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (said["preset"], said["optimizer"]) == ("tiny", "muon")
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (reference / "tokenizer.json").read_bytes()
    assert "leave --gpus out" in run("train", corpus, "--gpus", 2, "--device", "cpu", "--out", tmp_path / "other").line


def test_convert(run: Run, corpus: Path, reference: Path, tmp_path: Path) -> None:
    import torch

    source = tmp_path / "native"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(native_config()))
    torch.save(native_weights(), source / "pytorch_model.bin")
    assert "--tokenizer" in run("convert", source, "--out", tmp_path / "model").line
    assert "convert" in run("score", corpus, "--reference", source, "--out", tmp_path / "s.parquet").line
    tokenizer = tmp_path / "small.json"
    made = json.loads((reference / "tokenizer.json").read_bytes())
    made["model"]["vocab"] = {k: v for k, v in made["model"]["vocab"].items() if v < 90}
    made["model"]["merges"] = []
    tokenizer.write_text(json.dumps(made))
    ran = run("convert", source, "--tokenizer", tokenizer, "--out", tmp_path / "model")
    assert ran.status == 0, ran.err
    ran = run("score", corpus, "--reference", tmp_path / "model", "--out", tmp_path / "s.parquet")
    assert ran.status == 0, ran.err


def test_an_unreachable_service(run: Run) -> None:
    for command in (("status",), ("status", "x"), ("watch", "x"), ("cancel", "x"), ("download", "x"), ("submit", "x")):
        ran = run(*command, "--server", "http://127.0.0.1:9")
        assert (ran.status, "no service answers at http://127.0.0.1:9" in ran.line) == (1, True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`winnow serve` as a user starts it; Ctrl-C ends it."""
    workspace = tmp_path_factory.mktemp("served") / "ws"
    command = [*WINNOW, "serve", "--workspace", str(workspace), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Winnow is ready at http://127.0.0.1:")
    yield line.split()[-1]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    process.stdout.close()


def test_a_service_from_the_shell(
    run: Run, server: str, corpus: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINNOW_SERVER", server)
    monkeypatch.chdir(corpus.parent)
    fields = ("--id-field", "id", "--domain-field", "domain")
    drawn = "--select", "random", "--random-seed", "3", "--per", "byte"
    job = run("submit", corpus.name, *fields, "--reference", reference, "--select", "low", *drawn).out.strip()
    watched = run("watch", job)
    assert watched.status == 0, watched.err
    assert "low-0.5-byte" in watched.out
    assert "random-0.5-seed3" in watched.out
    assert run("status", job).out.startswith("succeeded; 120 of 120 documents")
    assert json.loads(run("status", "--json").out)[0]["id"] == job
    assert job in run("status").out
    ran = run("download", job, "--out", tmp_path / "here", "--scores", "--format", "jsonl", "--json")
    names = {Path(name).name for name in json.loads(ran.out)}
    manifests = {"manifest-low-0.5-byte.jsonl", "manifest-random-0.5-seed3.jsonl"}
    assert names == manifests | {"rejects.jsonl", "report.json", "scores.parquet"}
    assert [len((tmp_path / "here" / name).read_text().splitlines()) for name in sorted(manifests)] == [60, 60]
    assert "succeeded already" in run("cancel", job).line
    failed = run("submit", "/nowhere.parquet", "--watch")
    assert (failed.status, "/nowhere.parquet: no such file" in failed.line) == (1, True)
    listed = run("status").out
    assert str(corpus) in listed
    assert "/nowhere.parquet: no such file" in listed
    assert "no job nothing" in run("status", "nothing").line
    (tmp_path / "rejects.jsonl").write_text('{"text": null}\n' * 3)
    rejected = run("submit", tmp_path / "rejects.jsonl", "--reference", reference, "--watch").line.split()[2]
    saved = run("download", rejected, "--out", tmp_path / "tables", "--scores")
    assert (saved.status, "has failed and has no report" in saved.line) == (1, True)
    assert pq.read_table(tmp_path / "tables" / "scores.parquet").num_rows == 3


def test_status_and_watch_say_what_is_left_out_and_why_a_job_failed(
    run: Run, server: str, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINNOW_SERVER", server)
    lines = {}
    for name, row in (("good", '{"text": "some words to score"}\n'), ("bad", '{"text": null}\n')):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.jsonl").write_text(row * 3)
        for other in ("LICENSE", "README.md", "read.py"):
            (folder / other).write_text("About.")
        lines[name] = [
            f"left out: 1 file (code or settings), such as {folder}/read.py",
            f"left out: 2 files (documentation), such as {folder}/LICENSE",
        ]
    good = run("submit", tmp_path / "good", "--name", "A good one", "--reference", reference).out.strip()
    assert run("watch", good).out.splitlines()[:2] == lines["good"]
    assert run("status", good).out.splitlines()[1:] == lines["good"]
    assert len(run("status", good, "--json").out.splitlines()) == 1
    bad = run("submit", tmp_path / "bad", "--reference", reference).out.strip()
    watched = run("watch", bad)
    assert (watched.status, watched.out.splitlines()) == (1, lines["bad"])
    reason = watched.line.removeprefix(f"winnow: job {bad} failed: ")
    assert "no document of 3 has a score" in reason
    first, *others = run("status", bad).out.splitlines()
    assert first.startswith("failed; ")
    assert first.endswith(f"; {reason}")
    assert others == lines["bad"]
    heading, *rows = run("status").out.splitlines()
    assert "left out" in heading
    assert sum("3 files" in row for row in rows if good in row or bad in row) == 2
    assert all(("A good one" in row) == (good in row) for row in rows)

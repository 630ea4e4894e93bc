"""`winnow select` from the shell: what it writes, says and refuses."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.commands.cli import main


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "scores.parquet"
    pq.write_table(pa.table({"id": list("abcdef"), "quality": [3, 1, None, 2, 5, 2]}), path)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit status, and the one line on standard error."""
    try:
        status = main(["select", *map(str, arguments)])
    except SystemExit as ended:
        status = int(ended.code or 0)
    (line,) = capsys.readouterr().err.splitlines()
    return status, line


def test_manifests_of_a_sweep_are_written(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    sweep = ["--select", "low", "--select", "random", "--rate", "0.4", "--random-seed", "3"]
    assert main(["select", str(table), "--key", "quality", *sweep, "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {path.name for path in out.iterdir()} == {
        "manifest-low-0.4.parquet",
        "manifest-random-0.4-seed3.parquet",
    }
    low = answer["selections"][0]
    assert (answer["rows"], low["ranked"], low["documents"], low["tokens"]) == (6, 5, 2, None)
    assert (low["lowest"], low["highest"]) == (1, 2)
    assert low["left_out"] == {"rows without a number in 'quality'": 1}
    manifest = pq.read_table(low["manifest"])
    assert manifest.to_pylist() == [
        {"id": "b", "quality": 1, "percentile": 0.0},
        {"id": "d", "quality": 2, "percentile": 20.0},
    ]
    provenance = json.loads(manifest.schema.metadata[b"winnow"])
    assert (provenance["key"], provenance["percentile"], provenance["documents"]) == ("quality", "exact", 5)


def test_a_summary_is_shown(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text("about\n")
    assert main(["select", str(tmp_path), "--key", "quality", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "6 rows in 1 table" in shown
    assert "README.md" in shown
    assert "left out: 1 rows without a number in 'quality'" in shown
    assert "medium-0.5" in shown


def test_wrong_arguments_and_wrong_tables_have_their_status(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "out"]
    assert refused(capsys, table, "--key", "quality", "--rate", "1.5", *out)[0] == 2
    assert refused(capsys, table, "--key", "quality", "--per", "byte", *out)[0] == 2
    assert refused(capsys, *out)[0] == 2
    assert refused(capsys, tmp_path / "none.parquet", *out)[0] == 1
    status, line = refused(capsys, table, *out)
    assert status == 1
    assert "has no column 'nll'; --key can be quality" in line
    status, line = refused(capsys, table, "--key", "quality", "--unit", "tokens", *out)
    assert status == 1
    assert "has no column 'n_tokens'" in line


def test_tables_and_files_of_others_are_never_replaced(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["select", str(table), "--key", "quality", "--out", str(out)]) == 0
    capsys.readouterr()
    manifest = out / "manifest-medium-0.5.parquet"
    made = manifest.read_bytes()
    status, line = refused(capsys, manifest, "--key", "quality", "--out", out)
    assert (status, manifest.read_bytes()) == (1, made)
    assert "is one of the tables" in line
    manifest.write_text("mine")
    status, line = refused(capsys, table, "--key", "quality", "--out", out)
    assert (status, manifest.read_text()) == (1, "mine")
    assert "no manifest of Winnow's" in line
    status, line = refused(capsys, table, "--key", "quality", "--out", table)
    assert (status, "is a file; name a folder" in line) == (1, True)


def test_manifests_of_earlier_runs_are_no_tables(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.csv").write_text("quality\n1\n")
    flags = ["--key", "quality", "--exclude", "*.csv", "--out", str(tmp_path), "--json"]
    for criterion, left_out in (("low", ["excluded"]), ("high", ["excluded", "output of this command"])):
        assert main(["select", str(tmp_path), "--select", criterion, *flags]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["rows"] == 6
        assert [left["reason"] for left in answer["left_out"]] == left_out


def test_tables_are_found_by_any_path(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (table.parent / "inner").mkdir()
    monkeypatch.chdir(table.parent / "inner")
    assert main(["select", "../scores.parquet", "--key", "quality", "--out", "../out"]) == 0
    assert (table.parent / "out" / "manifest-medium-0.5.parquet").exists()


def test_scores_of_a_job_give_its_manifests_again(
    reference: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, again = tmp_path / "kept", tmp_path / "again"
    fields = ["--id-field", "id", "--domain-field", "domain", "--reference", str(reference), "--device", "cpu"]
    for flags in (["--unit", "tokens"], ["--within", "domain"], ["--per", "byte"]):
        sweep = ["--select", "low", "--select", "medium", "--rate", "0.3", *flags]
        assert main(["prune", str(corpus), *fields, *sweep, "--out", str(kept)]) == 0
        assert main(["select", str(kept / "scores"), *sweep, "--out", str(again)]) == 0
    capsys.readouterr()
    names = sorted(path.name for path in again.glob("manifest-*.parquet"))
    assert len(names) == 6
    for name in names:
        made = pq.read_table(again / name)
        assert set(made["reject"].to_pylist()) <= {None}
        if (kept / name).exists():  # that of the last sweep
            manifest = pq.read_table(kept / name)
            assert made.select(manifest.column_names).equals(manifest)
    assert all((kept / name).exists() for name in names if name.endswith("-byte.parquet"))

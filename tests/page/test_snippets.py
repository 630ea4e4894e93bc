"""The code that writes the documents of a manifest, run as the page and the README show it."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from service.page import snippets
from tests.page.serving import real_texts

MANIFEST = "manifest-medium-0.5.parquet"


def test_the_documents_of_a_manifest_are_written_whole(model: Path, tmp_path: Path) -> None:
    rows = real_texts(40)
    corpus = {"a.parquet": rows[:15], "b.jsonl": rows[15:25], "c.jsonl.gz": rows[25:]}
    pq.write_table(pa.Table.from_pylist(corpus["a.parquet"]), tmp_path / "a.parquet", row_group_size=4)
    lines = {name: b"".join(json.dumps(row).encode() + b"\n" for row in made) for name, made in corpus.items()}
    (tmp_path / "b.jsonl").write_bytes(lines["b.jsonl"])
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines["c.jsonl.gz"]))
    out = tmp_path / "pruned"
    command = [sys.executable, "-m", "service.commands.cli", "prune", *(str(tmp_path / name) for name in corpus)]
    command += ["--reference", str(model), "--out", str(out), "--device", "cpu"]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    subprocess.run([sys.executable, "-c", snippets.write_documents(MANIFEST)], cwd=out, check=True, timeout=60)

    wanted = [corpus[Path(row["file"]).name][row["row"]] for row in pq.read_table(out / MANIFEST).to_pylist()]
    kept = pq.read_table(out / "kept" / "00000.parquet").to_pylist()
    for name in ("00001.jsonl", "00002.jsonl"):
        kept += [json.loads(line) for line in (out / "kept" / name).read_text().splitlines()]
    assert kept == wanted
    assert len({Path(row["file"]).name for row in pq.read_table(out / MANIFEST).to_pylist()}) == 3


def test_the_readme_shows_the_same_code() -> None:
    assert snippets.write_documents(MANIFEST) in Path("README.md").read_text()

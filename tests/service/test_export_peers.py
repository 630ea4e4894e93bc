"""What the manual says of training tools, run as it stands there: they read the documents that the manifest names."""

import csv
import gzip
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from deploy.demo_corpus import documents
from service.contract.schemas import JobRequest
from service.work import local
from tests.service.test_prune import nothing

for package in ("datasets", "datatrove"):
    pytest.importorskip(package, reason=f"{package} is not installed: make test-peers installs it and runs this")

PAGE = (Path(__file__).parents[2] / "docs" / "from-manifest-to-training.md").read_text()
# Ends of texts that readers of lines, strippers of blanks and tokenizers may change.
ENDS = ("", " \U0001f642\u2028and\u0085\r\n", '\t"\\"\x00 \n', "<|endoftext|>")
SHOW = "\nimport json; print(json.dumps([[row['id'], row['text']] for row in {}]))\n"
Texts = dict[str, str]  # by id


def texts() -> Iterator[dict[str, str]]:
    """Real documents, and a long one."""
    for kind in ("documentation", "licences"):
        for number, row in enumerate(itertools.islice(documents(kind), 80)):
            yield {"id": row["id"], "text": row["text"] + ENDS[number % len(ENDS)]}
    yield {"id": "long", "text": "".join(row["text"] for row in itertools.islice(documents("source"), 30))}


@pytest.fixture(scope="module")
def folder(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the manual's commands are for, with a corpus in three formats."""
    folder = tmp_path_factory.mktemp("training")
    corpus, rows = folder / "corpus", list(texts())
    (corpus / "more").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows[::3]), corpus / "a.parquet", row_group_size=7, compression="zstd")
    (corpus / "b.jsonl").write_text("\n".join(json.dumps(row) for row in rows[1::3]))  # its last line has no end
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[2::3])
    (corpus / "more" / "c.json.gz").write_bytes(gzip.compress(lines.encode()))
    body = {"corpus": {"paths": [str(corpus)], "id_field": "id"}, "reference": {"model": str(reference)}}
    local.prune(JobRequest.model_validate(body), folder / "pruned", "cpu", nothing)
    (folder / "tokenizer").symlink_to(reference)
    run(folder, *blocks("Exports"))
    return folder


@pytest.fixture(scope="module")
def kept(folder: Path) -> Texts:
    """The documents that the manifest names."""
    return named_in(folder / "pruned", ["a.parquet", "b.jsonl", "c.json.gz"])


def named_in(pruned: Path, files: list[str]) -> Texts:
    """The documents that a manifest names, by the rows of the corpus as they were dealt out to three files."""
    corpus = list(texts())
    manifest = pq.read_table(pruned / "manifest-medium-0.5.parquet", columns=["file", "row"]).to_pylist()
    found = [corpus[files.index(Path(row["file"]).name) + 3 * row["row"]] for row in manifest]
    assert len(found) > 40
    return {row["id"]: row["text"] for row in found}


@pytest.fixture(scope="module")
def dolma() -> str:
    """The start of shell commands that call the Dolma toolkit."""
    programs = Path(sys.prefix) / "dolma" / "bin"
    if not (programs / "dolma").exists():
        pytest.skip("the Dolma toolkit is not installed: make test-peers installs it and runs this")
    return f"PATH={programs}:$PATH\n"


def blocks(section: str) -> list[tuple[str, str]]:
    """The language and the text of each block of commands in a section of the page."""
    (part,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```(\w+)\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)


def run(folder: Path, *commands: tuple[str, str], then: str = "") -> list[str]:
    """The lines that the blocks print in the folder, where Python blocks end with `then`. Caches lie there; no hub."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    places = {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder)}
    said: list[str] = []
    for language, code in commands:
        program = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code + then]
        env = os.environ | places | {"PATH": path}
        ran = subprocess.run(program, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stderr
        said += ran.stdout.splitlines()
    return said


def test_the_export_says_how_many_documents_it_has(folder: Path, kept: Texts) -> None:
    assert run(folder, *blocks("Exports"))[-1] == str(len(kept))


def test_datasets_counts_and_streams_the_documents(folder: Path, kept: Texts) -> None:
    (block,) = blocks("Hugging Face datasets")
    count, streamed, *found = run(folder, block, then=SHOW.format("kept") + SHOW.format("stream"))
    assert count == streamed == str(len(kept))
    assert [dict(json.loads(line)) for line in found] == [kept, kept]


@pytest.mark.parametrize("name", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_datasets_reads_json_lines_from_the_folder(folder: Path, kept: Texts, name: str) -> None:
    run(folder, ("sh", f"winnow export pruned --selection medium-0.5 --format {name} --scores --out scored-{name}"))
    ((language, code),) = blocks("Hugging Face datasets")
    *_, line = run(folder, (language, code.replace("kept-parquet", f"scored-{name}")), then=SHOW.format("stream"))
    assert dict(json.loads(line)) == kept


def test_datatrove_tokenizes_the_documents(folder: Path, kept: Texts) -> None:
    pipeline, count, rename = blocks("datatrove and nanotron")
    run(folder, pipeline)
    assert run(folder, count) == [str(len(kept))]
    run(folder, rename)
    assert {path.read_text().split("|")[0] for path in (folder / "tokens").glob("*.metadata")} == {"tokenizer"}


@pytest.mark.parametrize("reader", ["ParquetReader", "JsonlReader"])
def test_datatrove_reads_the_texts(folder: Path, kept: Texts, reader: str) -> None:
    (call,) = re.findall(rf"{reader}\(\"[^)]*\)", PAGE)
    code = f"from datatrove.pipeline.readers import {reader}\n"
    code += f"rows = [{{'id': document.id, 'text': document.text}} for document in {call}.run()]"
    (line,) = run(folder, ("python", code), then=SHOW.format("rows"))
    assert sorted(json.loads(line)) == sorted(map(list, kept.items()))


def test_a_streaming_dataset_has_the_documents(folder: Path, kept: Texts) -> None:
    pytest.importorskip("streaming", reason="mosaicml-streaming is not installed: it needs torchvision")
    _, write, count = blocks("llm-foundry and mosaicml-streaming")
    run(folder, write)
    assert run(folder, count) == [str(len(kept))]
    read = 'from streaming import StreamingDataset\nmds = StreamingDataset(local="mds", split="train", batch_size=1)\n'
    (line,) = run(folder, ("python", read + "rows = [row | {'id': None} for row in mds]"), then=SHOW.format("rows"))
    assert sorted(text for _, text in json.loads(line)) == sorted(kept.values())


def test_the_dolma_toolkit_mixes_by_the_attributes(folder: Path, reference: Path, dolma: str) -> None:
    documents, rows = folder / "wiki" / "documents", list(texts())
    (documents / "more").mkdir(parents=True)
    names = ["a.jsonl", "b.jsonl.zst", "c.json.gz"]
    for start, (name, compress) in enumerate(zip(names, (bytes, zstd, gzip.compress), strict=True)):
        lines = "".join(json.dumps(row | {"source": "wiki"}) + "\n" for row in rows[start::3])
        (documents / ("more" if start else "") / name).write_bytes(compress(lines.encode()))
    body = {"corpus": {"paths": [str(documents)], "id_field": "id"}, "reference": {"model": str(reference)}}
    local.prune(JobRequest.model_validate(body), folder / "pruned-wiki", "cpu", nothing)
    export, (_, config), (_, mix) = blocks("Attributes for the Dolma toolkit")
    run(folder, export)
    (folder / "mix.json").write_text(config)
    expected = named_in(folder / "pruned-wiki", names)
    assert run(folder, ("sh", dolma + mix))[-1] == str(len(expected))
    found = [
        json.loads(line)
        for path in (folder / "mixed").glob("*.gz")
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    assert [(row["id"], row["text"], row["source"]) for row in found] == [
        (name, text, "wiki") for name, text in expected.items()
    ]


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


def test_the_dolma_toolkit_tokenizes_the_documents(folder: Path, kept: Texts, dolma: str) -> None:
    convert, (_, tokenize) = blocks("OLMo-core and the Dolma toolkit")
    run(folder, convert)
    assert run(folder, ("sh", dolma + tokenize))[-1] == str(len(kept))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    found = {}
    for path in (folder / "olmo").glob("*.npy"):
        tokens = np.fromfile(path, np.uint16)
        with gzip.open(path.with_suffix(".csv.gz"), "rt") as lines:
            for start, stop, name, *_ in csv.reader(lines):
                *ids, end = tokens[int(start) : int(stop)].tolist()
                assert end == 0
                found[name] = tokenizer.decode(ids, skip_special_tokens=False)
    assert found == {name: text.strip() for name, text in kept.items()}


def test_one_file_of_json_lines_for_megatron(folder: Path, kept: Texts) -> None:
    (joined, *_) = blocks("Megatron-LM")
    assert run(folder, joined)[-1].strip() == str(len(kept))
    rows = [json.loads(line) for line in (folder / "kept.jsonl").read_bytes().splitlines()]
    assert {row["id"]: row["text"] for row in rows} == kept


def test_chunks_for_lingua(folder: Path, kept: Texts) -> None:
    run(folder, blocks("Megatron-LM")[0])  # makes the export as JSON lines
    (chunks,) = blocks("Lingua")
    assert run(folder, chunks)[-1].strip() == str(len(kept))
    files = sorted((folder / "data" / "kept").glob("*.chunk.*.jsonl"))
    assert len(files) == 8
    rows = [json.loads(line) for path in files for line in path.read_bytes().splitlines()]
    assert {row["id"]: row["text"] for row in rows} == kept


def test_an_export_goes_to_a_bucket(folder: Path, kept: Texts, s3_url: str) -> None:
    ((_, commands),) = blocks("Into a bucket")
    here = commands.splitlines()[0].replace("s3://bucket", s3_url)
    run(folder, ("sh", here))
    bucket = fsspec.filesystem("s3")
    assert json.loads(bucket.cat(f"{s3_url}/kept/export.json"))["documents"] == len(kept)
    assert bucket.exists(f"{s3_url}/kept/more/c.json.gz")

"""Corpora in the layouts in which they are published: the flags that the manual names read every document."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pruner.corpus import sandbox
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from tests.pruner.conftest import Rows, column, jsonl, parquet, zstd
from tests.pruner.test_formats import arrow, feather_bytes, table

PAGE = (Path(__file__).parents[2] / "docs" / "corpora.md").read_text()
LEAVE_OUT = {"README.md": b"# About", ".gitattributes": b"*.zst filter=lfs"}


def gz(rows: Rows) -> bytes:
    return gzip.compress(jsonl(rows))


def zst(rows: Rows) -> bytes:
    return zstd(jsonl(rows))


@dataclass
class Layout:
    """Files of a corpus by path, how to read them, and what is found. `fails` is the error without `exclude`."""

    name: str  # as the page's table names it
    files: dict[str, bytes]
    fields: dict[str, Any]
    ids: list[str | None]
    domains: list[str | None]
    fails: str | None = None
    left_out: int = 0


def document(number: int, **fields: Any) -> dict[str, Any]:
    return {"text": f"Document {number}.", "id": f"d{number}", **fields}


DOLMA = [document(i, source="c4", added="2024", created="2019", metadata={"length": i}) for i in range(2)]
LAYOUTS = [
    Layout(
        "The Pile",
        {
            "train/00.jsonl.zst": zst([{"text": "a", "meta": {"pile_set_name": "Pile-CC"}}]),
            "train/01.jsonl.zst": zst([{"text": "b", "meta": {"pile_set_name": "ArXiv"}}]),
            "SHA256SUMS.txt": b"00 train/00.jsonl.zst",
        },
        {"domain_field": "meta.pile_set_name"},
        [None, None],
        ["Pile-CC", "ArXiv"],
        left_out=1,
    ),
    Layout(
        "SlimPajama",
        {
            f"chunk{n}/example_train_{n}.jsonl.zst": zst(
                [{"text": "a", "meta": {"redpajama_set_name": f"RedPajama{name}"}}]
            )
            for n, name in ((1, "C4"), (2, "Book"))
        },
        {"domain_field": "meta.redpajama_set_name"},
        [None, None],
        ["RedPajamaC4", "RedPajamaBook"],
    ),
    Layout(
        "RedPajama-v1",
        {
            "arxiv/arxiv_0.jsonl": jsonl([{"text": "a", "meta": {"url": "https://arxiv.org/abs/1"}}]),
            "common_crawl/2023-06/en_head_0000.json.gz.dedup.classifier.jsonl.zst": zst(
                [{"text": "b", "source": "cc"}]
            ),
            "urls.txt": b"https://data.example.org/arxiv_0.jsonl\n",
        },
        {"domain_field": "@folder"},
        [None, None],
        ["arxiv", "2023-06"],
        left_out=1,
    ),
    Layout(
        "Dolma",
        {
            "v1_7/c4-0000.json.gz": gz(DOLMA),
            "attributes/tagger/c4-0000.json.gz": gz([{"id": "d0", "attributes": {"score": 1}}]),
        },
        {"id_field": "id", "domain_field": "source", "exclude": ["attributes/**"]},
        ["d0", "d1"],
        ["c4", "c4"],
        fails=r"attributes/tagger/c4-0000\.json\.gz: no field 'text'",
        left_out=1,
    ),
    Layout(
        "Common Pile",
        {
            "documents/00000_arxiv.jsonl.gz": gz([document(0, source="arxiv-papers", metadata={"license": "CC"})]),
            "dataset_info.json": json.dumps({"a": 1}, indent=1).encode(),
        },
        {"id_field": "id", "domain_field": "source"},
        ["d0"],
        ["arxiv-papers"],
        left_out=1,
    ),
    Layout(
        "peS2o",
        {"data/v2/train-00000-of-00020.json.gz": gz([document(0, source="s2orc/train", version="v2")])},
        {"id_field": "id", "domain_field": "source"},
        ["d0"],
        ["s2orc/train"],
    ),
    Layout(
        "C4",
        {
            "en/c4-train.00000-of-01024.json.gz": gz(
                [{"text": "a", "timestamp": "2019-04-25T12:57:54Z", "url": "https://Klyq.com/x"}]
            ),
            "en/c4-validation.00000-of-00008.json.gz": gz([{"text": "b", "timestamp": "x", "url": "http://b.org"}]),
            "multilingual/c4-fr.tfrecord-00000-of-02048.json.gz": gz([{"text": "c", "url": "http://c.fr"}]),
        },
        {"id_field": "url", "domain_field": "url", "include": ["c4-train.*", "multilingual/*"]},
        ["https://Klyq.com/x", "http://c.fr"],
        ["klyq.com", "c.fr"],
        left_out=1,
    ),
    Layout(
        "RedPajama-v2",
        {
            "documents/2018-43/0000/en_head.json.gz": gz([{"raw_content": "a", "source_domain": "a.org", "doc_id": 1}]),
            "quality_signals/2018-43/0000/en_head.signals.json.gz": gz([{"id": "2018-43/0", "quality_signals": {}}]),
            "duplicates/2018-43/0000/en_head.duplicates.parquet": parquet([{"doc_id": "x"}]),
        },
        {
            "text_field": "raw_content",
            "id_field": "doc_id",
            "domain_field": "source_domain",
            "include": ["documents/**"],
        },
        ["1"],
        ["a.org"],
        fails="no field 'raw_content' .* which other files have",
        left_out=2,
    ),
    Layout(
        "DCLM-baseline",
        {
            "global-shard_01_of_10/local-shard_0_of_10/shard_00000000_processed.jsonl.zstd": zst(
                [{"text": "a", "url": "https://a.org/1", "metadata": {"WARC-Record-ID": "<urn:uuid:1>"}}]
            )
        },
        {"id_field": "metadata.WARC-Record-ID", "domain_field": "url"},
        ["<urn:uuid:1>"],
        ["a.org"],
    ),
    Layout(
        "Nemotron-CC",
        {
            f"quality={quality}/kind=actual/CC-MAIN-2013-20-part-0000{n}.jsonl.zstd": zst(
                [{"warc_record_id": f"w{n}", "url": "https://a.org", "text": "a", "language": "eng"}]
            )
            for n, quality in enumerate(("high", "low"))
        },
        {"id_field": "warc_record_id", "domain_field": "quality"},
        ["w0", "w1"],
        ["high", "low"],
    ),
    Layout(
        "OLMo-mix",
        {
            "data/dclm/0026/dclm-0000.json.zst": zst([document(0, metadata={"url": "https://a.org"})]),
            "data/wiki/wiki-0000.json.gz": gz([document(1, metadata={"url": "https://b.org"})]),
        },
        {"id_field": "id", "domain_field": "metadata.url"},
        ["d0", "d1"],
        ["a.org", "b.org"],
    ),
    Layout(
        "FineWeb",
        {
            "data/CC-MAIN-2024-10/000_00000.parquet": parquet(
                [document(0, dump="CC-MAIN-2024-10", url="https://a.org/x", language_score=0.9)]
            ),
            "data/CC-MAIN-2013-20/000_00000.parquet": parquet(
                [document(1, dump="CC-MAIN-2013-20", url="https://b.org/x", language_score=0.9)]
            ),
        },
        {"id_field": "id", "domain_field": "dump"},
        ["d1", "d0"],
        ["CC-MAIN-2013-20", "CC-MAIN-2024-10"],
    ),
    Layout(
        "FinePDFs",
        {
            "data/fra_Latn/train/000_00000.parquet": parquet(
                [document(0, url="https://a.fr/x.pdf", language="fra_Latn", page_ends=[3, 11])]
            )
        },
        {"id_field": "id", "domain_field": "url"},
        ["d0"],
        ["a.fr"],
    ),
    Layout(
        "CulturaX",
        {
            f"{language}/{language}_part_00000.parquet": parquet(
                [{"text": "a", "timestamp": "2020", "url": f"https://a.{language}", "source": "mC4"}]
            )
            for language in ("de", "fr")
        },
        {"id_field": "url", "domain_field": "source"},
        ["https://a.de", "https://a.fr"],
        ["mC4", "mC4"],
    ),
    Layout(
        "Wikipedia",
        {
            f"20231101.{language}/train-00000-of-00001.parquet": parquet(
                [{"id": "7", "url": f"https://{language}.wikipedia.org/wiki/A", "title": "A", "text": "a"}]
            )
            for language in ("de", "fr")
        },
        {"id_field": "id", "domain_field": "@folder"},
        ["7", "7"],
        ["20231101.de", "20231101.fr"],
    ),
    Layout(
        "OpenWebText",
        {"plain_text/train-00000-of-00080.parquet": parquet([{"text": "a"}])},
        {},
        [None],
        [None],
    ),
    Layout(
        "FineWeb-2",
        {
            "data/fra_Latn/train/000_00000.parquet": parquet([document(0, url="https://a.fr")]),
            "data/fra_Latn_removed/train/000_00000.parquet": parquet([document(1, url="https://b.fr")]),
        },
        {"id_field": "id", "domain_field": "url", "exclude": ["**/*_removed/**"]},
        ["d0"],
        ["a.fr"],
        left_out=1,
    ),
    Layout(
        "Ultra-FineWeb",
        {"data/ultrafineweb_en/part-0001.parquet": parquet([{"content": "a", "score": 0.9, "source": "fineweb"}])},
        {"text_field": "content", "domain_field": "source"},
        [None],
        ["fineweb"],
    ),
    Layout(
        "The Stack",
        {
            f"data/{language}/train-00000-of-00001.parquet": parquet([{"content": "a", "hexsha": f"h{language}"}])
            for language in ("c", "python")
        },
        {"text_field": "content", "id_field": "hexsha", "domain_field": "@folder"},
        ["hc", "hpython"],
        ["c", "python"],
    ),
    Layout(
        "save_to_disk",
        {
            "dataset_dict.json": b'{"splits": ["train"]}',
            "train/data-00000-of-00001.arrow": arrow(
                [document(0, source="a"), document(1, source="b")], pa.ipc.new_stream
            ),
            "train/dataset_info.json": json.dumps({"features": {}}, indent=2).encode(),
            "train/state.json": json.dumps({"_fingerprint": "x"}, indent=2).encode(),
        },
        {"id_field": "id", "domain_field": "source"},
        ["d0", "d1"],
        ["a", "b"],
        left_out=3,
    ),
    Layout(
        "Feather",
        {"corpus.feather": feather_bytes([document(0, source="a")])},
        {"id_field": "id", "domain_field": "source"},
        ["d0"],
        ["a"],
    ),
    Layout(
        "CSV",
        {
            "a.csv": table([document(0, source="a")]),
            "b.tsv": table([document(1, source="b")], "\t"),
            "c.csv.gz": gzip.compress(table([document(2, source="c")])),
        },
        {"id_field": "id", "domain_field": "source"},
        ["d0", "d1", "d2"],
        ["a", "b", "c"],
    ),
    Layout(
        "Spark and Hive folders",
        {
            "source=cc/part-00000": jsonl([document(0)]),
            "source=wiki/part-00001": jsonl([document(1)]),
            "source=wiki/.part-00001.crc": b"crc",
            "_SUCCESS": b"",
        },
        {"id_field": "id", "domain_field": "source"},
        ["d0", "d1"],
        ["cc", "wiki"],
        left_out=2,
    ),
]


def write(folder: Path, layout: Layout) -> None:
    for name, data in (layout.files | LEAVE_OUT).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_document_is_read_with_its_id_and_domain(tmp_path: Path, layout: Layout) -> None:
    write(tmp_path, layout)
    spec = CorpusSpec(paths=[str(tmp_path)], **layout.fields)
    plan = sandbox.make_plan(spec)
    batches = [batch for shard in plan.shards for batch in sandbox.read_shard(plan, shard, spec)]
    assert not any(column(batches, "reject"))
    assert column(batches, "id") == layout.ids
    assert column(batches, "domain") == layout.domains
    assert sum(left.files for left in plan.left_out) == layout.left_out + len(LEAVE_OUT)
    assert sandbox.check_corpus(spec).problems == []


@pytest.mark.parametrize("layout", [each for each in LAYOUTS if each.fails], ids=lambda layout: layout.name)
def test_files_of_another_kind_beside_are_named(tmp_path: Path, layout: Layout) -> None:
    write(tmp_path, layout)
    fields = {name: value for name, value in layout.fields.items() if name not in ("include", "exclude")}
    with pytest.raises(InputError, match=layout.fails):
        sandbox.make_plan(CorpusSpec(paths=[str(tmp_path)], **fields))


def flags(layout: Layout) -> list[str]:
    """The fields and rules of a layout as flags of the command line."""
    given = {name: value if isinstance(value, list) else [value] for name, value in layout.fields.items()}
    return [
        f"--{name.replace('_', '-')} {value if name.endswith('field') else repr(value)}"
        for name, values in given.items()
        for value in values
    ]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_manual_has_a_row_with_its_flags(layout: Layout) -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ")]
    (found,) = ["|".join(row) for row in rows if layout.name in row[1].strip().split(", ")]
    assert all(flag in found for flag in flags(layout))

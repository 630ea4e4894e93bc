"""The text that trains a reference comes from the split only, from every file, in a fixed order."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pruner.corpus.plan import Plan, make_plan
from pruner.corpus.sample import training_texts
from pruner.corpus.shard_reader import read_shard
from pruner.corpus.train_split import ShardRows, Split, in_split
from pruner.spec import CorpusSpec


@pytest.fixture
def spec(tmp_path: Path) -> CorpusSpec:
    """Twenty files of 200 documents, each document naming its file and row; one in ten is no text."""
    for file in range(20):
        rows = [{"text": None if row % 10 == 9 else f"{file} {row} " + "x" * 100} for row in range(200)]
        (tmp_path / f"{file:02}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CorpusSpec(paths=[str(tmp_path)])


@pytest.fixture
def plan(spec: CorpusSpec) -> Plan:
    return make_plan(spec)


def take(plan: Plan, spec: CorpusSpec, tokens: int, fraction: float = 0.5, seed: int = 3) -> list[str]:
    return list(training_texts(plan, spec, Split(seed, fraction), tokens, lambda: None))


def split(plan: Plan, spec: CorpusSpec, fraction: float, seed: int) -> set[str]:
    found = set()
    for shard in plan.shards:
        for batch in read_shard(plan.files_of(shard), shard, spec):
            places = batch["file"].to_numpy(), batch["row"].to_numpy()
            chosen = in_split(Split(seed, fraction), ShardRows.of(plan, shard.index), *places)
            texts = batch["text"].to_pylist()
            found |= {text for text, taken in zip(texts, chosen, strict=True) if taken and text is not None}
    return found


def test_a_small_split_is_used_whole_and_each_document_once(plan: Plan, spec: CorpusSpec) -> None:
    texts = take(plan, spec, 1_000_000)
    assert len(texts) == len(set(texts))
    assert set(texts) == split(plan, spec, 0.5, 3)
    assert 1500 < len(texts) < 2100


def test_a_large_split_gives_about_what_is_needed_from_every_file(plan: Plan, spec: CorpusSpec) -> None:
    texts = take(plan, spec, 8_000)  # about 40,000 of 200,000 bytes
    assert set(texts) < split(plan, spec, 0.5, 3)
    assert 30_000 < sum(map(len, texts)) < 70_000
    from_file = [sum(text.startswith(f"{file} ") for text in texts) for file in range(20)]
    assert min(from_file) > 5
    rows = [int(text.split()[1]) for text in texts]
    assert sum(row >= 100 for row in rows) > len(rows) / 4  # not only the head of each file


def test_sizes_that_are_planned_too_large_give_enough_text(plan: Plan, spec: CorpusSpec) -> None:
    mostly_other = replace(plan, shards=tuple(replace(s, text_bytes=s.text_bytes * 1000) for s in plan.shards))
    texts = take(mostly_other, spec, 8_000)
    assert len(texts) == len(set(texts))
    assert set(texts) < split(plan, spec, 0.5, 3)
    assert 40_000 <= sum(map(len, texts)) < 70_000
    assert set(take(mostly_other, spec, 1_000_000)) == split(plan, spec, 0.5, 3)


def test_the_order_is_mixed_seeded_and_the_same_each_time(plan: Plan, spec: CorpusSpec) -> None:
    texts = take(plan, spec, 8_000)
    assert texts == take(plan, spec, 8_000)
    assert texts != take(plan, spec, 8_000, seed=4)
    assert len({text.split()[0] for text in texts[:40]}) > 10


def test_a_fraction_of_one_takes_every_document(plan: Plan, spec: CorpusSpec) -> None:
    assert len(take(plan, spec, 1_000_000, fraction=1.0)) == 20 * 180


def test_every_batch_is_reported(plan: Plan, spec: CorpusSpec) -> None:
    beats: list[int] = []
    list(training_texts(plan, spec, Split(3, 0.5), 1000, lambda: beats.append(1)))
    read = sum(len(list(read_shard(plan.files_of(shard), shard, spec))) for shard in plan.shards)
    assert len(beats) >= read

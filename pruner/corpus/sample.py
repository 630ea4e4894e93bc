"""The text that trains a reference: documents of the split, a fair share from each shard, mixed in a seeded order."""

import random
from collections.abc import Callable, Iterator

from pruner.corpus.paths import OWN, Roots
from pruner.corpus.plan import Plan, Shard
from pruner.corpus.sandbox import read_shard
from pruner.corpus.train_split import in_split
from pruner.spec import CorpusSpec

_BYTES_PER_TOKEN = 5  # about what a tokenizer makes of text; where it reads less, some text is read twice
_SHARDS = 256  # the most shards that are opened where so many can give enough
_SPARE = 1.25  # of its share that is drawn from a shard, as its size in the plan is an estimate
_MIXED_BYTES = 64 << 20  # of text that is held in memory to be mixed


def training_texts(
    plan: Plan,
    spec: CorpusSpec,
    tokens: int,
    fraction: float,
    seed: int,
    beat: Callable[[], None],
    roots: Roots = OWN,
) -> Iterator[str]:
    """Documents of the split to train on, the same ones in the same order at each call.

    All of the split where it is small. Else about what `tokens` tokens need: a sample spread over each of up to 256
    shards, taken from the files in turn, so that every file has its share. A `fraction` of 1 splits nothing off.
    Calls `beat` every few megabytes that are read, and while it waits for them. Raises InputError as reading does.
    """
    wanted = tokens * _BYTES_PER_TOKEN
    order = _by_turns(plan, seed)
    while len(order) > _SHARDS and wanted * _SPARE <= fraction * _text_bytes(order[: len(order) // 2]):
        order = order[: max(_SHARDS, len(order) // 2)]
    mix = random.Random(seed)  # noqa: S311 (its algorithm is fixed, so the order is the same everywhere)
    held: list[str] = []
    held_bytes = 0
    for shard in order:
        share = _SPARE * wanted / len(order) / max(1.0, fraction * shard.text_bytes)
        for text, size in _sample(plan, shard, spec, fraction, share, seed, beat, roots):
            held.append(text)
            held_bytes += size
            if held_bytes > _MIXED_BYTES:
                mix.shuffle(held)
                yield from held
                held, held_bytes = [], 0
    mix.shuffle(held)
    yield from held


def _by_turns(plan: Plan, seed: int) -> list[Shard]:
    """All shards, one of each file in turn; files and the shards inside them in a seeded order."""
    shuffle = random.Random(seed).shuffle  # noqa: S311 (no secret)
    files: dict[int, list[Shard]] = {}
    for shard in plan.shards:
        files.setdefault(shard.file, []).append(shard)
    piles = list(files.values())
    shuffle(piles)
    for pile in piles:
        shuffle(pile)
    turns = range(max(map(len, piles), default=0))
    return [pile[turn] for turn in turns for pile in piles if turn < len(pile)]


def _text_bytes(shards: list[Shard]) -> int:
    return sum(shard.text_bytes for shard in shards)


def _sample(
    plan: Plan,
    shard: Shard,
    spec: CorpusSpec,
    fraction: float,
    share: float,
    seed: int,
    beat: Callable[[], None],
    roots: Roots,
) -> Iterator[tuple[str, int]]:
    """A share of a shard's documents of the split, from all over it, each with its size in bytes."""
    row = 0
    for block in read_shard(plan, shard, spec, roots, beat):
        beat()
        chosen = in_split(seed, fraction, shard.index, row, block.rows)
        if share < 1:
            chosen &= in_split(seed ^ 0x5EED, share, shard.index, row, block.rows)
        for index in chosen.nonzero()[0]:
            text = block.texts[index]
            if text is not None:
                yield text, len(text.encode(errors="replace"))
        row += block.rows

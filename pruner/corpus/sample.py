"""The text that trains a reference: documents of the train split, sampled from all files, in a seeded order."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa

from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.corpus.plan import Plan
from pruner.corpus.sandbox import read_shard
from pruner.corpus.shard import Shard
from pruner.corpus.train_split import ShardRows, Split, in_split
from pruner.spec import CorpusSpec

_BYTES_PER_TOKEN = 5.5  # estimate, held-out text included; where tokens have more bytes, some text is read twice
_SHARDS_MAX = 256  # shards to open, where these can give enough text
_READ_MAX = 16 << 30  # bytes of text to decode, where these can give enough, and each file has a shard
_SPARE = 1.25  # factor on the share drawn from a shard, as its planned size is an estimate
_SHUFFLE_BYTES = 64 << 20  # of text that is held in memory and shuffled
_DRAW = 0x5EED  # changes the seed, so that draws from the split do not depend on the split


class SplitDocument(NamedTuple):
    """A document of the train split."""

    text: str
    n_bytes: int
    domain: str | None


def training_texts(
    plan: Plan,
    spec: CorpusSpec,
    split: Split,
    tokens: int,
    beat: Callable[[], None],
    roots: Roots = UNRESTRICTED,
    rejects: Counter[str] | None = None,
) -> Iterator[str]:
    """The texts of `training_documents`."""
    return (found.text for found in training_documents(plan, spec, split, tokens, beat, roots, rejects))


def training_documents(
    plan: Plan,
    spec: CorpusSpec,
    split: Split,
    tokens: int,
    beat: Callable[[], None],
    roots: Roots = UNRESTRICTED,
    rejects: Counter[str] | None = None,
) -> Iterator[SplitDocument]:
    """Documents of the train split to train on; the same ones in the same order at each call.

    Yields the whole split where it is small. Otherwise yields about as much as `tokens` tokens need: a sample spread
    over each of up to 256 shards, fewer where much must be decoded; taken from the files in turn, so that every file
    has its share. A `fraction` of 1 uses all documents. Calls `beat` for every batch that is read, and every 0.5 s
    while waiting for one. `rejects` counts the rows that were drawn and are no documents, by kind of reason. Raises
    InputError and OSError as reading does.
    """
    rejects = Counter() if rejects is None else rejects
    wanted = tokens * _BYTES_PER_TOKEN
    order = _chosen_shards(plan, split, wanted)
    shares = [_SPARE * wanted / len(order) / max(1.0, split.fraction * shard.text_bytes) for shard in order]
    rng = random.Random(split.seed)  # noqa: S311 (a fixed algorithm, so that the order is the same everywhere)
    given, low, high = 0, 0.0, 1.0  # bytes of text; the factors of the shares that were drawn and are drawn now
    while True:
        held: list[SplitDocument] = []
        held_bytes = 0
        for shard, share in zip(order, shares, strict=True):
            for found in _drawn(plan, shard, spec, roots, beat, split, (low * share, high * share), rejects):
                given += found.n_bytes
                held.append(found)
                held_bytes += found.n_bytes
                if held_bytes > _SHUFFLE_BYTES:
                    rng.shuffle(held)
                    yield from held
                    held, held_bytes = [], 0
        rng.shuffle(held)
        yield from held
        if given >= wanted or all(high * share >= 1 for share in shares):
            return
        # The planned sizes were too large, as where most of a file is no text: draw more.
        low, high = high, high * min(100.0, max(2.0, _SPARE * wanted / max(1, given)))


def _chosen_shards(plan: Plan, split: Split, wanted: float) -> list[Shard]:
    """The shards that are sampled: all, or fewer that are planned to give the wanted bytes of text."""
    order = _round_robin(plan, split.seed)
    least = min(_SHARDS_MAX, len({shard.file for shard in order}))
    while len(order) > least and (len(order) > _SHARDS_MAX or _decoded_bytes(plan, order) > _READ_MAX):
        fewer = order[: max(least, len(order) // 2)]
        if wanted * _SPARE > split.fraction * _text_bytes(fewer):
            break
        order = fewer
    return order


def _round_robin(plan: Plan, seed: int) -> list[Shard]:
    """All shards, one of each file in turn; files, and the shards of each file, in a seeded order."""
    shuffle = random.Random(seed).shuffle  # noqa: S311 (no secret)
    files: dict[int, list[Shard]] = {}
    for shard in plan.shards:
        files.setdefault(shard.file, []).append(shard)
    of_file = list(files.values())
    shuffle(of_file)
    for shards in of_file:
        shuffle(shards)
    rounds = range(max(map(len, of_file), default=0))
    return [shards[number] for number in rounds for shards in of_file if number < len(shards)]


def _decoded_bytes(plan: Plan, shards: list[Shard]) -> int:
    """The estimated bytes of text that are decoded to read the shards: of a compressed file also all before a range."""
    before = sum(shard.start for shard in shards if plan.files[shard.file].compression is not None)
    return before + _text_bytes(shards)


def _text_bytes(shards: list[Shard]) -> int:
    return sum(shard.text_bytes for shard in shards)


def _drawn(
    plan: Plan,
    shard: Shard,
    spec: CorpusSpec,
    roots: Roots,
    beat: Callable[[], None],
    split: Split,
    between: tuple[float, float],
    rejects: Counter[str],
) -> Iterator[SplitDocument]:
    """The documents of a shard that are in the split and whose draw lies between two shares."""
    there = ShardRows.of(plan, shard.index)
    for batch in read_shard(plan, shard, spec, roots, beat):
        beat()
        places = there, batch["file"].to_numpy(), batch["row"].to_numpy()
        chosen = in_split(split, *places)
        for share, inside in zip(between, (False, True), strict=True):
            if share < 1:
                chosen &= in_split(Split(split.seed ^ _DRAW, share), *places) == inside
            elif not inside:
                return  # all were drawn before
        is_text = batch["text"].is_valid().to_numpy(zero_copy_only=False)
        reasons = batch["reject"].filter(pa.array(chosen & ~is_text)).to_pylist()
        rejects.update(reason.partition(":")[0] for reason in reasons)
        chosen &= is_text
        rows = batch.select(SplitDocument._fields).filter(pa.array(chosen))
        yield from map(SplitDocument, *(column.to_pylist() for column in rows.columns))

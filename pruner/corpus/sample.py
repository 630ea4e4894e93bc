"""The text that trains a reference: documents of the train split, sampled from all files, in a seeded order."""

import random
from collections.abc import Callable, Iterator

import pyarrow as pa

from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.corpus.plan import Plan, Shard
from pruner.corpus.sandbox import read_shard
from pruner.corpus.train_split import in_split
from pruner.spec import CorpusSpec

_BYTES_PER_TOKEN = 5  # estimate; where tokens have more bytes, some text is read twice
_SHARDS_MAX = 256  # shards to open, where these can give enough text
_SPARE = 1.25  # factor on the share drawn from a shard, as its planned size is an estimate
_SHUFFLE_BYTES = 64 << 20  # of text that is held in memory and shuffled


def training_texts(
    plan: Plan,
    spec: CorpusSpec,
    tokens: int,
    fraction: float,
    seed: int,
    beat: Callable[[], None],
    roots: Roots = UNRESTRICTED,
) -> Iterator[str]:
    """Documents of the train split to train on; the same ones in the same order at each call.

    Yields the whole split where it is small. Otherwise yields about as much as `tokens` tokens need: a sample spread
    over each of up to 256 shards, taken from the files in turn, so that every file has its share. A `fraction` of 1
    uses all documents. Calls `beat` for every batch that is read, and every 0.5 s while waiting for one. Raises
    InputError and OSError as reading does.
    """
    wanted = tokens * _BYTES_PER_TOKEN
    order = _round_robin(plan, seed)
    while len(order) > _SHARDS_MAX and wanted * _SPARE <= fraction * _text_bytes(order[: len(order) // 2]):
        order = order[: max(_SHARDS_MAX, len(order) // 2)]
    rng = random.Random(seed)  # noqa: S311 (a fixed algorithm, so that the order is the same everywhere)
    held: list[str] = []
    held_bytes = 0
    for shard in order:
        share = _SPARE * wanted / len(order) / max(1.0, fraction * shard.text_bytes)
        row = 0
        for batch in read_shard(plan, shard, spec, roots, beat):
            beat()
            chosen = _choose(batch, shard, row, fraction, share, seed)
            row += len(batch)
            for text, size in zip(chosen["text"].to_pylist(), chosen["n_bytes"].to_pylist(), strict=True):
                held.append(text)
                held_bytes += size
                if held_bytes > _SHUFFLE_BYTES:
                    rng.shuffle(held)
                    yield from held
                    held, held_bytes = [], 0
    rng.shuffle(held)
    yield from held


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


def _text_bytes(shards: list[Shard]) -> int:
    return sum(shard.text_bytes for shard in shards)


def _choose(
    batch: pa.RecordBatch, shard: Shard, first_row: int, fraction: float, share: float, seed: int
) -> pa.RecordBatch:
    """The documents of a batch that are in the split, or a random `share` of these."""
    chosen = in_split(seed, fraction, shard.index, first_row, len(batch))
    if share < 1:
        chosen &= in_split(seed ^ 0x5EED, share, shard.index, first_row, len(batch))
    chosen &= batch["text"].is_valid().to_numpy(zero_copy_only=False)
    return batch.select(["text", "n_bytes"]).filter(pa.array(chosen))

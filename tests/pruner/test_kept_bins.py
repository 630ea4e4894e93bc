"""What selections keep of each bin of a histogram, and the counts of a shard while it is scored, by a plain count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.corpus.train_split import ShardRows, Split, in_split
from pruner.select.histogram import BinsSoFar, Histogram, ScoredRows, count_bins, histogram
from pruner.select.kept_bins import kept_by_key, kept_of_run
from pruner.spec import SelectionSpec
from tests.pruner.oracle import select
from tests.pruner.test_index import SPECS, Scores


def counted(made: Scores, kept: np.ndarray, like: Histogram) -> tuple[list[int], list[int]]:
    """Documents and tokens of the kept rows in the bins of a histogram of all."""
    sums = count_bins((made.nll / made.tokens)[kept], made.tokens[kept])
    first = round(like.edges[0] / like.bin_width)
    documents, tokens = np.zeros((2, len(like.documents)), dtype=np.int64)
    documents[sums.bins - first], tokens[sums.bins - first] = sums.documents, sums.tokens
    return documents.tolist(), tokens.tolist()


@given(spec=SPECS, seed=st.integers(0, 50), scores=st.sampled_from([3, 100, 3_000]))
def test_what_is_kept_of_each_bin(spec: SelectionSpec, seed: int, scores: int) -> None:
    made = Scores(documents=60 + seed, domains=1 + seed % 5, seed=seed, scores=scores)
    index = made.index()
    bins = histogram([count_bins(made.nll / made.tokens, made.tokens)])
    expected = counted(made, select(made.nll, made.tokens, spec, made.codes).kept, bins)
    found = index.counts(spec)
    run = (found.start or 0, found.stop or 0)
    assert kept_by_key(index, spec, run, bins) == expected
    if spec.within is None:
        assert kept_of_run(bins.documents, bins.tokens, index.below, *run) == expected


def test_bins_that_are_joined_hold_the_same_documents() -> None:
    made = Scores(documents=200, domains=1, seed=3)  # up to 1,000 nats a token
    bins = histogram([count_bins(made.nll / made.tokens, made.tokens)])
    assert bins.bin_width > 0.05
    index, spec = made.index(), SelectionSpec(criterion="high", rate=0.3)
    found = index.counts(spec)
    assert found.start is not None
    assert found.stop is not None
    run = (found.start, found.stop)
    assert kept_by_key(index, spec, run, bins) == kept_of_run(bins.documents, bins.tokens, index.below, *run)


@pytest.mark.parametrize("split", [None, Split(7, 0.3)])
def test_a_shard_is_counted_while_it_is_scored(split: Split | None) -> None:
    rng = np.random.default_rng(0)
    has_text = rng.random(500) < 0.9
    tokens = rng.integers(0, 50, has_text.sum())  # some have no token, and some no finite NLL
    nll = tokens * rng.normal(3, 1, len(tokens)).clip(0.1)
    nll[::17] = np.nan
    shard, file, row = ShardRows(4), np.repeat([0, 1], 250), np.tile(np.arange(250), 2)
    so_far = BinsSoFar(shard, split)
    place = np.concatenate(([0], np.cumsum(has_text)))
    further = []
    for start in range(0, 500, 90):
        texts = slice(place[start], place[min(start + 90, 500)])
        part = slice(start, start + 90)
        rows = ScoredRows(file[part], row[part], has_text[part], tokens[texts], nll[texts])
        if start < 200:
            so_far.append(rows)
        else:
            further.append(rows)
    made = so_far.bins(further)
    chosen = (tokens > 0) & np.isfinite(nll)
    if split is not None:
        chosen &= ~in_split(split, shard, file, row)[has_text]
    whole = count_bins(nll[chosen] / tokens[chosen], tokens[chosen])
    columns = (column.tolist() for column in whole)
    assert made == {number: (documents, size) for number, documents, size in zip(*columns, strict=True)}

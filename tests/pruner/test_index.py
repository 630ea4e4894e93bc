"""A preview from the index equals the selection by a plain sort, to the document and the last digit."""

import mmap
import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.errors import InputError
from pruner.ranks.rank_key import mean_key
from pruner.select import domain_marks, index_files, key_limits, stored_array
from pruner.select.build_index import build_index as build
from pruner.select.domains import by_size, domain_rows
from pruner.select.index import Index
from pruner.select.index_files import array_path, read_index, row_ranks, write_array, write_arrays
from pruner.select.perplexity import perplexity
from pruner.select.selection_record import SelectionReport
from pruner.spec import SelectionSpec
from pruner.tables.storage import Storage
from tests.pruner.oracle import select

SPECS = st.builds(
    SelectionSpec,
    criterion=st.sampled_from(["low", "medium", "high"]),
    rate=st.one_of(st.sampled_from([0.5, 0.25, 1.0, 0.01, 1e-9]), st.floats(0, 1, exclude_min=True, width=32)),
    unit=st.sampled_from(["documents", "tokens"]),
    within=st.sampled_from([None, "domain"]),
)


class Scores:
    """Random scores; few different ones give many ties. Every third row of the table is not eligible."""

    def __init__(self, documents: int, domains: int, seed: int, scores: int = 1_000_000) -> None:
        rng = np.random.default_rng(seed)
        self.names: list[str | None] = [None, *(f"d{i}" for i in range(1, domains))]
        self.tokens = rng.integers(1, 300, documents)
        self.nll = self.tokens * rng.integers(1, scores, documents) / 1000.0
        self.codes = np.concatenate((np.arange(domains), rng.integers(0, domains, documents - domains)))
        self.places = np.arange(documents) * 3 // 2

    @property
    def table(self) -> pa.Table:
        rows = int(self.places[-1]) + 1
        columns = {"nll": np.zeros(rows), "n_tokens": np.ones(rows, np.int64)}
        columns["nll"][self.places], columns["n_tokens"][self.places] = self.nll, self.tokens
        domain, training = np.full(rows, "never", dtype=object), np.ones(rows, dtype=bool)
        domain[self.places] = [self.names[code] for code in self.codes]
        training[self.places] = False
        more = {"domain": pa.array(domain, pa.string()), "training": training, "reject": pa.nulls(rows, pa.string())}
        return pa.table(columns | more)

    def index(self, shard_rows: list[int] | None = None) -> Index:
        table = self.table
        with tempfile.TemporaryDirectory() as folder:
            pq.write_table(table, Path(folder, "scores.parquet"), row_group_size=50)
            rows = shard_rows or [len(table)]
            storage = Storage(folder)
            return build(storage, "scores.parquet", mean_key("n_tokens"), self.names, rows, lambda: None)

    def report(self, spec: SelectionSpec) -> SelectionReport:
        """What a selection keeps, by a plain sort."""
        selected = select(self.nll, self.tokens, spec, self.codes)
        kept = selected.kept
        found = perplexity((self.nll / self.tokens)[kept]).tolist()
        sizes, counts = (np.bincount(codes, minlength=len(self.names)) for codes in (self.codes, self.codes[kept]))
        tokens = np.bincount(self.codes[kept], weights=self.tokens[kept], minlength=len(self.names)).astype(np.int64)
        return SelectionReport(
            id=spec.id,
            **spec.model_dump(),
            documents=len(kept),
            tokens=int(tokens.sum()),
            perplexity_min=min(found, default=None),
            perplexity_max=max(found, default=None),
            start=selected.start,
            stop=selected.stop,
            domains=domain_rows(self.names, by_size(sizes), counts, tokens),
        )


@pytest.mark.parametrize("step", [1, 7, 10_000])
@given(spec=SPECS, seed=st.integers(0, 50), scores=st.sampled_from([3, 1_000_000]))
def test_a_preview_is_the_selection(step: int, spec: SelectionSpec, seed: int, scores: int) -> None:
    made = Scores(documents=60 + seed, domains=1 + seed % 5, seed=seed, scores=scores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(domain_marks, "STEP", step)
        patch.setattr(key_limits, "BLOCK", 1 + seed % 9)
        preview = made.index().preview(spec)
    expected = made.report(spec)
    assert SelectionReport.model_validate(preview.flat().model_dump(exclude={"inside"})) == expected
    for band, row in zip(preview.inside, expected.domains, strict=False):
        assert (band.domain, band.stop - band.start) == (row.domain, row.documents)
    assert len(preview.inside) == (0 if spec.within is None else min(3, len(made.names)))
    if preview.start is not None and preview.stop is not None:
        assert preview.stop - preview.start == preview.documents


def test_the_public_shape_is_flat() -> None:
    preview = Scores(documents=100, domains=3, seed=1).index().preview(SelectionSpec(within="domain"))
    public = preview.flat().model_dump()
    assert list(public)[:9] == [
        *("id", "criterion", "rate", "unit", "within"),
        *("documents", "tokens", "perplexity_min", "perplexity_max"),
    ]
    assert (public["id"], public["start"], len(public["inside"])) == ("medium-0.5-domain", None, 3)
    assert set(public["domains"][0]) == {"domain", "documents", "tokens", "documents_share", "tokens_share"}


@given(seed=st.integers(0, 50), scores=st.sampled_from([3, 1_000_000]), first=st.integers(0, 70))
def test_ranks_inside_a_domain_lead_to_its_documents(seed: int, scores: int, first: int) -> None:
    made = Scores(documents=60 + seed, domains=1 + seed % 5, seed=seed, scores=scores)
    index = made.index()
    named = index.preview(SelectionSpec(rate=1.0)).domains
    key = dict(zip(made.places.tolist(), (made.nll / made.tokens).tolist(), strict=True))
    for row, domain in enumerate(named):
        code = made.names.index(domain.domain)
        members = sorted(made.places[made.codes == code].tolist(), key=lambda place: (key[place], place))
        places, size = index.in_domain(row, first, first + 5)
        assert (places.tolist(), size) == (members[first : first + 5], domain.documents)
    with pytest.raises(InputError, match=f"the report names {len(named)} domains"):
        index.in_domain(len(named), 0, 5)


def test_a_preview_of_many_documents_and_domains_is_the_selection() -> None:
    made = Scores(documents=200_000, domains=1_500, seed=0)
    index = made.index()
    for spec in (SelectionSpec(rate=0.333, unit="tokens"), SelectionSpec(rate=0.1, within="domain")):
        preview = index.preview(spec)
        assert preview.domains[-1].others == 500
        assert made.report(spec) == SelectionReport(**preview.flat().model_dump(exclude={"inside"}))


@pytest.mark.parametrize("remote", [False, True])
def test_an_index_is_read_as_it_was_written(tmp_path: Path, remote: bool) -> None:
    made = Scores(documents=100, domains=3, seed=1, scores=5)
    index = made.index([40, 0, 109])
    storage = Storage("memory://index" if remote else str(tmp_path))
    beats: list[None] = []
    write_arrays(storage, "job", index, lambda: beats.append(None))
    found = read_index(storage, "job")
    for name in {field.name for field in fields(Index)} - {"rank", "inside_rank"}:
        assert np.array_equal(getattr(found, name), getattr(index, name))
    assert isinstance(found.key.base, mmap.mmap) != remote
    for inside, ranks in ((False, index.rank), (True, index.inside_rank)):
        assert ranks is not None
        some = row_ranks(storage, "job", inside=inside)(20, 120)
        assert np.array_equal(some, ranks[20:120])
        storage.remove(array_path("job", "inside_rank" if inside else "rank"))  # as in an index of an earlier version
        assert np.array_equal(row_ranks(storage, "job", inside=inside)(20, 120), some)
    assert len(beats) >= 10
    key = dict(zip(made.places.tolist(), (made.nll / made.tokens).tolist(), strict=True))
    assert found.place.tolist() == sorted(key, key=lambda place: (key[place], place))
    assert found.shards.tolist() == [0, 40, 40, 149]


@pytest.mark.parametrize("remote", [False, True])
def test_an_index_of_an_earlier_version_is_read(tmp_path: Path, remote: bool) -> None:
    made = Scores(documents=3_000, domains=1_100, seed=1)
    index = made.index()
    storage = Storage("memory://earlier" if remote else str(tmp_path))
    write_arrays(storage, "job", index, lambda: None)
    # Each domain had its own counts, key limits were of larger blocks, and there were no samples.
    step, order = 1_000, np.lexsort((made.places, made.nll / made.tokens))
    marks = np.zeros((4, len(made.names), 2), dtype=np.int64)
    for number, rank in enumerate((0, 1_000, 2_000, 3_000)):
        np.add.at(marks[number], made.codes[order[:rank]], np.stack([np.ones(rank, int), made.tokens[order[:rank]]], 1))
    write_array(storage, "job", "marks", marks, lambda: None)
    write_array(storage, "job", "limits", key_limits.block_limits(index.key)[:1], lambda: None)
    storage.remove(array_path("job", "inside_limits"))
    storage.remove(array_path("job", "inside_samples"))
    record = {name: value for name, value in storage.read_json("job/ranks/ranks.json").items() if name != "columns"}
    storage.write_json("job/ranks/ranks.json", record | {"step": step})
    found = read_index(storage, "job")
    assert found.columns == 1_100
    for within in (None, "domain"):
        for per in (None, "byte"):
            spec = SelectionSpec(rate=0.3, unit="tokens", within=within, per=per)
            assert found.preview(spec) == index.preview(spec)


def test_previews_of_a_large_remote_index_read_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_files, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(stored_array, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(key_limits, "BLOCK", 7)
    index = Scores(documents=300, domains=3, seed=1, scores=9).index()
    storage = Storage("memory://large-index")
    write_arrays(storage, "job", index, lambda: None)
    found = read_index(storage, "job")
    assert isinstance(found.below, stored_array.StoredArray)
    for criterion in ("low", "medium", "high"):
        for unit in ("documents", "tokens"):
            for within in (None, "domain"):
                for per in (None, "byte"):
                    spec = SelectionSpec(criterion=criterion, rate=0.3, unit=unit, within=within, per=per)
                    assert found.preview(spec) == index.preview(spec)
    assert found.in_domain(1, 3, 9)[0].tolist() == index.in_domain(1, 3, 9)[0].tolist()


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=40), st.data())
def test_limits_of_runs(values: list[float], data: st.DataObject) -> None:
    key = np.array(values)
    stop = data.draw(st.integers(1, len(key)))
    start = data.draw(st.integers(0, stop - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_limits, "BLOCK", 5)
        limits = key_limits.block_limits(key)
        assert key_limits.run_limits(key, limits, start, stop) == (min(values[start:stop]), max(values[start:stop]))


@given(
    st.lists(st.one_of(st.integers(0, 9).map(float), st.just(float("nan"))), min_size=1, max_size=80),
    st.lists(st.integers(0, 80), max_size=12),
)
def test_limits_of_several_runs(values: list[float], bounds: list[int]) -> None:
    key = np.array(values)
    ends = sorted(min(end, len(key)) for end in bounds[: len(bounds) // 2 * 2])
    starts, stops = np.array(ends, dtype=np.int64).reshape(-1, 2).T
    kept = np.concatenate([key[:0], *(key[start:stop] for start, stop in zip(starts, stops, strict=True))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_limits, "BLOCK", 5)
        found = key_limits.limits_of_runs(key, key_limits.block_limits(key), starts, stops)
    assert (found is None) == (not len(kept))
    assert found is None or np.array_equal(found, [kept.min(), kept.max()], equal_nan=True)


def test_an_index_that_is_missing_or_of_another_format_is_an_error(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        read_index(storage, "job")
    storage.write_json("job/ranks/ranks.json", {"format": 2})
    with pytest.raises(InputError, match=r"ranks\.json: has format 2"):
        read_index(storage, "job")

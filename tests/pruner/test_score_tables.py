"""Selections over score tables are those of a plain sort over all rows of all tables, in the order given."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.errors import InputError
from pruner.ranks.rank_key import selection_hash
from pruner.score_tables import ordered, select_tables
from pruner.score_tables.select_tables import SelectedTables
from pruner.score_tables.tables import open_tables
from pruner.spec import SelectionSpec
from pruner.tables import parquet_parts, table_files
from tests.pruner.oracle import select

SPECS = [
    SelectionSpec(criterion=criterion, rate=rate, unit=unit, within=within)
    for criterion in ("low", "medium", "high")
    for rate, unit, within in (
        (0.25, "documents", None),
        (0.5, "tokens", None),
        (0.3, "documents", "domain"),
        (0.7, "tokens", "domain"),
    )
]


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """3,000 rows with many equal keys; some have no number."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 60, 3_000)
    nll = rng.normal(3, 1, 3_000).round(1) * tokens
    domain = np.array(["cc", "wiki", None, "code"], dtype=object)[rng.integers(0, 4, 3_000)]
    return pa.table(
        {
            "id": pa.array([f"d{n}" for n in range(3_000)]),
            "nll": pa.array(nll, mask=rng.random(3_000) < 0.02),
            "n_tokens": pa.array(tokens, pa.int32()),
            "n_bytes": pa.array(tokens * 4),
            "domain": pa.array(domain, pa.string()),
            "quality": pa.array(
                np.where(rng.random(3_000) < 0.05, np.nan, rng.integers(0, 9, 3_000) / 8), pa.float32()
            ),
            "votes": pa.array(rng.integers(-3, 3, 3_000) + 2**53, pa.int64(), mask=rng.random(3_000) < 0.1),
        }
    )


@pytest.fixture(scope="module")
def three(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The rows in three tables, in an order that is not that of their names."""
    folder = tmp_path_factory.mktemp("tables")
    for name, start, stop, size in (("b", 0, 1_100, 100), ("a", 1_100, 1_101, 7), ("c", 1_101, 3_000, 640)):
        pq.write_table(rows.slice(start, stop - start), folder / f"{name}.parquet", row_group_size=size)
    return [str(folder / f"{name}.parquet") for name in "bac"]


def make(
    paths: list[str], out: Path, specs: list[SelectionSpec], key: str | None = None, threads: int = 2
) -> list[SelectedTables]:
    return select_tables.select_tables(
        open_tables(paths), key, specs, lambda spec: out / f"{spec.id}.parquet", {"winnow": "1"}, threads
    )


def expected(rows: pa.Table, key: np.ndarray, spec: SelectionSpec) -> pa.Table:
    """The manifest by one sort; `key` float64 or int [rows], masked where a row is not ranked."""
    ranked = np.flatnonzero(~np.ma.getmaskarray(key))
    names = {name: code for code, name in enumerate(dict.fromkeys(rows["domain"].to_pylist()))}
    domains = np.array([names[name] for name in rows["domain"].to_pylist()])[ranked]
    tokens = rows["n_tokens"].to_numpy().astype(np.int64)[ranked]
    found = select(tokens, tokens, spec, domains, key=np.ma.getdata(key)[ranked])
    return rows.take(ranked[found.kept]).append_column("percentile", pa.array(found.percentile))


def same(found: pa.Table, wanted: pa.Table) -> bool:
    """Whether tables are equal, NaN in them too."""
    return found.schema.equals(wanted.schema) and repr(found.to_pylist()) == repr(wanted.to_pylist())


def mean(rows: pa.Table, divisor: str) -> Any:
    return np.ma.masked_invalid(rows["nll"].to_numpy() / rows[divisor].to_numpy())


def masked(rows: pa.Table, name: str) -> Any:
    column = rows[name].combine_chunks()
    return np.ma.masked_array(column.fill_null(0).to_numpy(), np.asarray(column.is_null(nan_is_null=True)))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_parts, "_PART_ROWS", 250)


@pytest.mark.usefixtures("small_parts")
def test_a_sweep_is_that_of_a_plain_sort(rows: pa.Table, three: list[str], tmp_path: Path) -> None:
    for one in make(three, tmp_path, SPECS):
        manifest = pq.read_table(one.manifest)
        assert same(manifest, expected(rows, mean(rows, "n_tokens"), one.spec))
        assert (one.documents, one.tokens) == (len(manifest), manifest["n_tokens"].to_numpy().sum())
        assert one.ranked == len(rows) - rows["nll"].null_count
        assert one.left_out == {"rows without nll or n_tokens": rows["nll"].null_count}
        key = manifest["nll"].to_numpy() / manifest["n_tokens"].to_numpy()
        assert (one.lowest, one.highest) == (key.min(), key.max())


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("column", ["quality", "votes"])
def test_rows_are_ordered_by_any_numeric_column(rows: pa.Table, three: list[str], tmp_path: Path, column: str) -> None:
    for one in make(three, tmp_path, SPECS[:4], column):
        assert same(pq.read_table(one.manifest), expected(rows, masked(rows, column), one.spec))
        kept = pq.read_table(one.manifest)[column].to_pylist()
        assert (one.lowest, one.highest) == (min(kept), max(kept))


def test_rows_are_ordered_by_nll_per_byte_and_at_random(rows: pa.Table, three: list[str], tmp_path: Path) -> None:
    specs = [SelectionSpec(per="byte"), SelectionSpec(criterion="random", rate=0.3, seed=7)]
    by_byte, at_random = make(three, tmp_path, specs)
    assert same(pq.read_table(by_byte.manifest), expected(rows, mean(rows, "n_bytes"), specs[0]))
    places = [(table, row) for table, size in enumerate((1_100, 1, 1_899)) for row in range(size)]
    hashes = [selection_hash(7, table, np.array([row]))[0] for table, row in places]
    key = np.ma.masked_array(np.array(hashes), np.ma.getmaskarray(mean(rows, "n_tokens")))
    assert same(pq.read_table(at_random.manifest), expected(rows, key, specs[1]))


def test_rejects_and_training_rows_are_not_selected(rows: pa.Table, tmp_path: Path) -> None:
    rejected, trained = np.arange(3_000) % 7 == 0, np.arange(3_000) % 5 == 0
    own = rows.append_column("training", pa.array(trained))
    own = own.append_column("reject", pa.array(np.where(rejected, "empty text", None), pa.string()))
    pq.write_table(own, tmp_path / "scores.parquet")
    made = make([str(tmp_path / "scores.parquet")], tmp_path, [SelectionSpec()])[0]
    key = np.ma.masked_array(mean(rows, "n_tokens"))
    key[rejected | trained] = np.ma.masked
    kept = expected(rows, key, SelectionSpec())
    assert pq.read_table(made.manifest)["id"].equals(kept["id"])
    assert pq.read_table(made.manifest)["percentile"].equals(kept["percentile"])
    assert made.left_out["rejects"] == rejected.sum()
    assert made.left_out["rows that trained the reference"] == (trained & ~rejected).sum()


@pytest.mark.usefixtures("small_parts")
def test_bytes_do_not_depend_on_the_number_of_threads(three: list[str], tmp_path: Path) -> None:
    manifests = []
    for threads in (1, 3):
        (tmp_path / str(threads)).mkdir()
        made = make(three, tmp_path / str(threads), SPECS, threads=threads)
        manifests.append([one.manifest.read_bytes() for one in made])
    assert manifests[0] == manifests[1]


@pytest.mark.usefixtures("small_parts")
def test_a_large_manifest_is_a_folder_with_percentiles_from_counters(
    rows: pa.Table, three: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "ONE_FILE_ROWS", 1_000)
    monkeypatch.setattr(ordered, "_KEPT_ROWS", 0)
    monkeypatch.setattr(table_files, "PART_FILE_ROWS", 500)
    specs = [SelectionSpec(), SelectionSpec(rate=0.25)]
    for _ in range(2):  # the second time in place of the first
        large, small = make(three, tmp_path, specs)
    assert small.manifest.is_file()
    names = sorted(path.name for path in large.manifest.iterdir())
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    for one, exact in ((large, False), (small, True)):
        found, wanted = pq.read_table(one.manifest), expected(rows, mean(rows, "n_tokens"), one.spec)
        assert same(found.drop_columns("percentile"), wanted.drop_columns("percentile"))
        difference = wanted["percentile"].to_numpy() - found["percentile"].to_numpy()
        assert (difference >= 0).all()
        assert (difference * 65_536 < 100).all()
        first = min(one.manifest.iterdir()) if one.manifest.is_dir() else one.manifest
        provenance = json.loads(pq.read_metadata(first).metadata[b"winnow"])
        assert (provenance["percentile"] == "exact") == exact
        assert provenance["documents"] == one.ranked
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_a_killed_run_left_is_removed(three: list[str], tmp_path: Path) -> None:
    left = tmp_path / f".medium-0.5.parquet.{'0' * 32}.part"
    folder = tmp_path / f".medium-0.5.parquet.{'1' * 32}.part"
    left.write_bytes(b"half")
    folder.mkdir()
    (folder / "part-00000.parquet").write_bytes(b"half")
    make(three, tmp_path, [SelectionSpec()])
    assert [path.name for path in tmp_path.iterdir()] == ["medium-0.5.parquet"]


def test_manifests_can_be_selected_from(rows: pa.Table, three: list[str], tmp_path: Path) -> None:
    first = make(three, tmp_path, [SelectionSpec(rate=0.5)])[0]
    second = make([str(first.manifest)], tmp_path, [SelectionSpec(criterion="low", rate=0.25)])[0]
    kept = expected(rows, mean(rows, "n_tokens"), first.spec).drop_columns("percentile")
    assert same(pq.read_table(second.manifest), expected(kept, mean(kept, "n_tokens"), second.spec))


def test_what_cannot_be_selected_from_is_named(rows: pa.Table, three: list[str], tmp_path: Path) -> None:
    pq.write_table(rows.drop_columns("domain"), tmp_path / "less.parquet")
    pq.write_table(rows.set_column(1, "nll", rows["nll"].cast(pa.float32())), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no table\n")
    pq.write_table(rows.slice(0, 0), tmp_path / "empty.parquet")
    for name, message in (
        ("less", "'domain' is missing, but of type string in"),
        ("other", "'nll' is of type float, but of type double in"),
        ("text", "text.parquet: is no Parquet file"),
    ):
        with pytest.raises(InputError, match=message):
            open_tables([*three, str(tmp_path / f"{name}.parquet")])
    with pytest.raises(InputError, match="have no rows"):
        open_tables([str(tmp_path / "empty.parquet")])
    less = [str(tmp_path / "less.parquet")]
    for key, spec, message in (
        ("id", SelectionSpec(), "'id' holds string, not numbers; --key can be nll, n_tokens, n_bytes"),
        ("nope", SelectionSpec(), "has no column 'nope'; --key can be nll"),
        (None, SelectionSpec(within="domain"), "has no column 'domain'"),
    ):
        with pytest.raises(InputError, match=message):
            make(less, tmp_path, [spec], key)
    pq.write_table(pa.table({"score": pa.array([None, None], pa.float64())}), tmp_path / "nulls.parquet")
    with pytest.raises(InputError, match="no row can be selected \\(2 rows without a number in 'score'\\)"):
        make([str(tmp_path / "nulls.parquet")], tmp_path, [SelectionSpec()], "score")
    with pytest.raises(InputError, match="has no column 'nll'; --key can be score"):
        make([str(tmp_path / "nulls.parquet")], tmp_path, [SelectionSpec()])


DECIMALS = ["100000000000000.01", "-3.45", None, "100000000000000.02", "0.00"]


@pytest.mark.parametrize(
    ("column", "order"),
    [
        (pa.array([2**64 - 1, 5, None, 2**64 - 2, 2**63], pa.uint64()), [1, 4, 3, 0]),
        (pa.array([text and Decimal(text) for text in DECIMALS], pa.decimal128(38, 2)), [1, 4, 0, 3]),
        (pa.array([text and Decimal(text) for text in DECIMALS], pa.decimal256(50, 2)), [1, 4, 0, 3]),
        (pa.array([1.5, -0.0, None, 0.0, -np.inf], pa.float32()), [4, 1, 3, 0]),
        (pa.array([np.nan, 0.1, None, 5e-324, np.inf]), [3, 1, 4]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_numbers_of_any_type_are_compared_exactly(column: pa.Array, order: list[int], tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": column, "row": range(5)}), tmp_path / "t.parquet", row_group_size=2)
    (made,) = make([str(tmp_path / "t.parquet")], tmp_path, [SelectionSpec(rate=1)], "key")
    manifest = pq.read_table(made.manifest).to_pylist()
    assert [row["row"] for row in sorted(manifest, key=lambda row: row["percentile"])] == order
    ends = [column[place].as_py() for place in (order[0], order[-1])]
    assert [made.lowest, made.highest] == [float(end) if isinstance(end, Decimal) else end for end in ends]


def test_decimals_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    column = pa.array([Decimal(10**30), Decimal(10**30 + 1)], pa.decimal128(38, 0))
    pq.write_table(pa.table({"key": column}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"'key' has decimals of more than 18 digits.*write it as float64"):
        make([str(tmp_path / "t.parquet")], tmp_path, [SelectionSpec()], "key")


def test_an_infinite_nll_is_no_score(tmp_path: Path) -> None:
    pq.write_table(pa.table({"nll": [3.0, np.inf, 1.0], "n_tokens": [2, 1, 1]}), tmp_path / "t.parquet")
    (made,) = make([str(tmp_path / "t.parquet")], tmp_path, [SelectionSpec(rate=1)])
    assert (made.ranked, made.left_out) == (2, {"rows without nll or n_tokens": 1})


def test_domains_that_are_nan_are_one_domain(tmp_path: Path) -> None:
    domains = [np.nan, 1.0, np.nan, None, np.nan, np.nan]
    table = pa.table({"key": range(6), "domain": pa.array(domains, pa.float64(), from_pandas=False)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=1)
    (made,) = make([str(tmp_path / "t.parquet")], tmp_path, [SelectionSpec(criterion="low", within="domain")], "key")
    assert pq.read_table(made.manifest)["key"].to_pylist() == [0, 1, 2, 3]


def test_tables_of_one_kind_of_column_that_are_stored_in_several_ways(tmp_path: Path) -> None:
    """A column without any value, another order of the columns, and a layout of texts that Arrow cannot filter."""
    rows = [("a", 3, "x"), ("b", 1, None), ("c", 2, None)]
    id_, key, domain = (list(column) for column in zip(*rows, strict=True))
    first = pa.table({"id": pa.array(id_[1:2], pa.string_view()), "key": key[1:2], "domain": pa.nulls(1)})
    pq.write_table(first, tmp_path / "a.parquet")
    more = pa.table({"domain": pa.array(domain[:1], pa.string_view()), "key": key[:1], "id": id_[:1]})
    pq.write_table(more, tmp_path / "b.parquet")
    pq.write_table(pa.table({"id": id_[2:], "key": key[2:], "domain": pa.nulls(1)}), tmp_path / "c.parquet")
    paths = [str(tmp_path / f"{name}.parquet") for name in "abc"]
    (made,) = make(paths, tmp_path, [SelectionSpec(criterion="high", rate=0.5, within="domain")], "key")
    manifest = pq.read_table(made.manifest)
    assert manifest.schema.types == [pa.string(), pa.int64(), pa.string(), pa.float64()]
    assert manifest.drop_columns("percentile").to_pylist() == [
        {"id": "a", "key": 3, "domain": "x"},
        {"id": "c", "key": 2, "domain": None},
    ]

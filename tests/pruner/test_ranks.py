"""A preview is what the selection then is, to the document and the last digit, whatever lies between two marks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.errors import InputError
from pruner.report import selection_report
from pruner.select import rank_index as ranks
from pruner.select.bands import select
from pruner.select.rank_index import read_ranks, write_ranks
from pruner.spec import SelectionSpec
from pruner.tables.score_table import Eligible
from pruner.tables.storage import Storage

SPECS = st.builds(
    SelectionSpec,
    criterion=st.sampled_from(["low", "medium", "high"]),
    rate=st.one_of(st.sampled_from([0.5, 0.25, 1.0, 0.01, 1e-9]), st.floats(0, 1, exclude_min=True, width=32)),
    unit=st.sampled_from(["documents", "tokens"]),
    within=st.sampled_from([None, "domain"]),
)


def corpus(documents: int, domains: int, seed: int, scores: int = 1_000_000) -> Eligible:
    """Random scores; few different ones give many ties."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 300, documents)
    names: list[str | None] = [None, *(f"d{i}" for i in range(1, domains))]
    codes = np.concatenate((np.arange(domains), rng.integers(0, domains, documents - domains))).astype(np.int32)
    places = np.sort(rng.choice(documents * 2, documents, replace=False))
    return Eligible(tokens * rng.integers(1, scores, documents) / 1000.0, tokens, codes, names, places)


def reported(eligible: Eligible, spec: SelectionSpec) -> dict[str, Any]:
    selected = select(eligible.nll, eligible.n_tokens, spec, eligible.domains)
    return selection_report(eligible, selected, spec)


def kept(eligible: Eligible, folders: pytest.TempPathFactory, step: int) -> ranks.Ranks:
    """The ranks of these documents as they are read again, with a mark at each `step`."""
    storage = Storage(str(folders.mktemp("ranks")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "_MARKS", -(-len(eligible.nll) // step))
        write_ranks(storage, "job", eligible, [])
    return read_ranks(storage, "job")


@pytest.mark.parametrize("step", [1, 7, 10_000])
@given(spec=SPECS, seed=st.integers(0, 50), scores=st.sampled_from([3, 1_000_000]))
def test_a_preview_is_the_selection(
    tmp_path_factory: pytest.TempPathFactory, step: int, spec: SelectionSpec, seed: int, scores: int
) -> None:
    eligible = corpus(documents=60 + seed, domains=1 + seed % 5, seed=seed, scores=scores)
    preview = kept(eligible, tmp_path_factory, step).preview(spec)
    inside = preview.pop("inside")
    assert preview == reported(eligible, spec)
    assert [row["domain"] for row in inside] == [row["domain"] for row in preview["domains"][: len(inside)]]
    assert [row["stop"] - row["start"] for row in inside] == [
        row["documents"] for row in preview["domains"][: len(inside)]
    ]
    if spec.within is None:
        assert preview["stop"] - preview["start"] == preview["documents"]


@pytest.mark.parametrize("step", [1, 7, 10_000])
@given(seed=st.integers(0, 50), scores=st.sampled_from([3, 1_000_000]), first=st.integers(0, 70))
def test_a_domains_own_ranks_lead_to_its_documents(
    tmp_path_factory: pytest.TempPathFactory, step: int, seed: int, scores: int, first: int
) -> None:
    eligible = corpus(documents=60 + seed, domains=1 + seed % 5, seed=seed, scores=scores)
    found = kept(eligible, tmp_path_factory, step)
    named = found.preview(SelectionSpec(rate=1.0))["domains"]
    for row, domain in enumerate(named):
        code = eligible.domain_names.index(domain["domain"])
        at, size = found.in_domain(row, first, first + 5)
        assert size == domain["documents"]
        assert at.tolist() == np.flatnonzero(found.domain == code)[first : first + 5].tolist()
    with pytest.raises(InputError, match=f"the report names {len(named)} domains"):
        found.in_domain(len(named), 0, 5)


def test_a_preview_of_many_documents_and_domains_is_the_selection(tmp_path: Path) -> None:
    eligible = corpus(documents=200_000, domains=1_500, seed=0)
    storage = Storage(str(tmp_path))
    write_ranks(storage, "job", eligible, [])
    found = read_ranks(storage, "job")
    for spec in (SelectionSpec(rate=0.333, unit="tokens"), SelectionSpec(rate=0.1, within="domain")):
        preview = found.preview(spec)
        assert preview["domains"][-1]["others"] == 500
        assert reported(eligible, spec).items() <= preview.items()


def test_ranks_lead_to_rows_of_the_score_table(tmp_path: Path) -> None:
    eligible = corpus(documents=100, domains=3, seed=1, scores=5)
    storage = Storage(str(tmp_path))
    write_ranks(storage, "job", eligible, [40, 0, 160])
    found = read_ranks(storage, "job")
    key = dict(zip(eligible.places.tolist(), (eligible.nll / eligible.n_tokens).tolist(), strict=True))
    assert found.place.tolist() == sorted(key, key=lambda place: (key[place], place))
    assert found.shards.tolist() == [0, 40, 40, 200]


def test_ranks_of_a_workspace_elsewhere(tmp_path: Path) -> None:
    eligible = corpus(documents=100, domains=3, seed=1)
    storage = Storage("memory://ranks-elsewhere")
    write_ranks(storage, "job", eligible, [])
    preview = read_ranks(storage, "job").preview(SelectionSpec())
    assert reported(eligible, SelectionSpec()).items() <= preview.items()

"""Formatting of numbers, times and texts; forms to requests; warnings."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.page import format as formats
from service.page import forms
from service.page.job_view import domain_losses, warnings


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (formats.number(1234567), "1,234,567"),
        (formats.compact(39_442_486), "39.4 M"),
        (formats.compact(999_999), "999,999"),
        (formats.compact(999_900_000), "1 B"),
        (formats.percent(0.371), "37.1 %"),
        (formats.percent(0.0001), "< 0.1 %"),
        (formats.percent(0), "0.0 %"),
        (formats.perplexity(45.54), "45.5"),
        (formats.perplexity(262.4), "262"),
        (formats.perplexity(999.7), "1,000"),
        (formats.perplexity(45470.96), "45,471"),
        (formats.perplexity(float("inf")), "over 1e308"),
        (formats.perplexity(None), "–"),
        (formats.ratio(0.1, 0.25), "× 2.50"),
        (formats.ratio(0, 0.25), "–"),
        (formats.percentile(24.9097), "24.9"),
        (formats.percentile(75.04), "75"),
        (formats.duration(42), "42 s"),
        (formats.duration(240), "4 min"),
        (formats.duration(7500), "2 h 05 min"),
        (formats.duration(3 * 86400 + 7200), "3 days 2 h"),
        (formats.hours(90), "0.03 h"),
    ],
)
def test_numbers_have_their_units(made: str, expected: str) -> None:
    assert made == expected


def test_ages() -> None:
    now = datetime(2026, 11, 25, tzinfo=timezone.utc)
    assert formats.age(now - timedelta(minutes=3), now) == "3 min ago"


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_html_has_no_invisible_character_and_no_markup_of_the_text(text: str) -> None:
    made = str(formats.html(text))
    made.encode()  # no lone surrogate is left
    rest = made.replace('<span class="hidden-mark" title="', "").replace("</span>", "").replace('">', "")
    assert "<" not in rest
    assert not any((ord(c) < 32 and c not in "\t\n") or "\u202a" <= c <= "\u202e" or c == "\u200b" for c in made)


def test_a_long_name_is_cut_and_its_length_shown() -> None:
    assert "1,000 characters" in formats.html_short("x" * 1000)
    assert formats.html_short("<b>") == "&lt;b&gt;"


def test_forms_become_requests() -> None:
    form: forms.Form = {
        "paths": ["a.parquet\r\n\r\n b.jsonl "],
        "text_field": ["text"],
        "id_field": [""],
        "reference": ["train"],
        "preset": ["tiny"],
        "tokens": ["2,000_000"],
        "fraction": ["0.1"],
        "criterion": ["low", "high"],
        "rates": ["25%, 0.5"],
        "unit": ["tokens"],
        "within": ["domain"],
    }
    made = forms.job_request(form)
    assert made["corpus"] == {"paths": ["a.parquet", "b.jsonl"], "text_field": "text"}
    assert made["reference"] == {"train": {"preset": "tiny", "tokens": 2_000_000, "fraction": 0.1}}
    pairs = [(spec["criterion"], spec["rate"]) for spec in made["selections"]]
    assert pairs == [("low", 0.25), ("low", 0.5), ("high", 0.25), ("high", 0.5)]
    assert all((spec["unit"], spec["within"]) == ("tokens", "domain") for spec in made["selections"])
    ordered = form | {
        "criterion": ["low", "random"],
        "rates": ["0.5"],
        "per": ["byte"],
        "random_seed": [str(2**62 + 1)],
    }
    common = {"rate": 0.5, "unit": "tokens", "within": "domain"}
    assert forms.job_request(ordered)["selections"] == [
        {"criterion": "low", "per": "byte"} | common,
        {"criterion": "random", "seed": 2**62 + 1} | common,
    ]
    assert forms.job_request(ordered | {"random_seed": ["1.5"]})["selections"][1]["seed"] == "1.5"
    assert forms.job_request(form | {"tokens": ["nan"]})["reference"]["train"]["tokens"] == "nan"


def report(**changes: Any) -> dict[str, Any]:
    return {
        "eligible": {"documents": 10_000, "tokens": 1_000_000},
        "short": {"under_tokens": 32, "documents": 0},
        "cut": {"context": 1024, "documents": 0},
        "equal": {"documents": 0, "largest": 1},
        "rejects": {"documents": 0, "reasons": {}},
    } | changes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"short": {"under_tokens": 32, "documents": 2_000}}, "20.0 % of the documents have fewer than 32 tokens"),
        (
            {"cut": {"context": 1024, "documents": 500}},
            "5.0 % of the documents are longer than the reference's context",
        ),
        ({"equal": {"documents": 300, "largest": 40}}, "3.0 % of the documents share their exact score"),
        ({"rejects": {"documents": 3, "reasons": {"empty text": 3}}}, "3 documents have no score"),
        ({"eligible": {"documents": 500, "tokens": 9}}, "only 500 documents"),
    ],
)
def test_warnings_only_if_they_apply(change: dict[str, Any], said: str) -> None:
    job = {"request": {"scoring": {"stride": None}}, "reference": None}
    assert warnings(job, report()) == []
    (warning,) = warnings(job, report(**change))
    assert said in warning


def test_warnings_of_the_fields_are_shown() -> None:
    job = {"request": {"scoring": {"stride": None}}, "reference": None}
    assert warnings(job, report(warnings=["no ids"])) == ["no ids"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0.4, 0.4, ""),
        (0.4, 0.398, ""),
        (0.4, 0.43, ""),
        (0.4, 0.45, "up"),
        (0.4, 0.35, "down"),
        (0, 0.1, "up"),
        (0, 0, ""),
    ],
)
def test_only_a_share_that_changes_is_marked(before: float, after: float, expected: str) -> None:
    assert formats.change(before, after) == expected


def test_a_domain_that_loses_more_than_half_is_named() -> None:
    def shares(before: float, after: float) -> dict[str, float]:
        return {"before": before, "after": after}

    rows = [
        {"name": "kept", "documents": shares(0.5, 0.26), "tokens": shares(0.5, 0.6)},
        {"name": "lost", "documents": shares(0.4, 0.19), "tokens": shares(0.4, 0.1)},
        {"name": "tiny", "documents": shares(0.0001, 0), "tokens": shares(0.0001, 0)},
    ]
    assert domain_losses(rows) == [
        "lost falls from 40.0 % to 19.0 % of the documents and 40.0 % to 10.0 % of the tokens"
    ]

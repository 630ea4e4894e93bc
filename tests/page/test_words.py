"""How the page writes numbers and times, shows text, reads forms and warns."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.page import format as words
from service.page import forms
from service.page.job_view import losses, warnings


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (words.number(1234567), "1,234,567"),
        (words.short(39_442_486), "39.4 M"),
        (words.short(999_999), "999,999"),
        (words.short(999_900_000), "1 B"),
        (words.percent(0.371), "37.1 %"),
        (words.percent(0.0001), "< 0.1 %"),
        (words.percent(0), "0.0 %"),
        (words.perplexity(45.54), "45.5"),
        (words.perplexity(262.4), "262"),
        (words.perplexity(999.7), "1,000"),
        (words.perplexity(45470.96), "45,471"),
        (words.perplexity(float("inf")), "over 1e308"),
        (words.perplexity(None), "–"),
        (words.ratio(0.1, 0.25), "× 2.50"),
        (words.ratio(0, 0.25), "–"),
        (words.duration(42), "42 s"),
        (words.duration(240), "4 min"),
        (words.duration(7500), "2 h 05 min"),
        (words.duration(3 * 86400 + 7200), "3 days 2 h"),
        (words.span(180, 300), "3 to 5 min"),
        (words.span(40, 300), "40 s to 5 min"),
        (words.span(61, 61.2), "about 61 s"),
        (words.span(6000, 7500), "1 h 40 min to 2 h 05 min"),
        (words.hours(90), "0.03 h"),
    ],
)
def test_numbers_have_their_units(made: str, expected: str) -> None:
    assert made == expected


def test_ages() -> None:
    now = datetime(2026, 11, 25, tzinfo=timezone.utc)
    assert words.age(now - timedelta(minutes=3), now) == "3 min ago"


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_no_character_of_a_text_is_hidden_and_none_is_markup(text: str) -> None:
    made = str(words.shown(text))
    made.encode()  # no lone surrogate is left
    rest = made.replace('<span class="hidden-mark" title="', "").replace("</span>", "").replace('">', "")
    assert "<" not in rest
    assert not any((ord(c) < 32 and c not in "\t\n") or "\u202a" <= c <= "\u202e" or c == "\u200b" for c in made)


def test_a_long_name_says_how_long_it_is() -> None:
    assert "1,000 characters" in words.brief("x" * 1000)
    assert words.brief("<b>") == "&lt;b&gt;"


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
    made = forms.job_body(form)
    assert made["corpus"] == {"paths": ["a.parquet", "b.jsonl"], "text_field": "text"}
    assert made["reference"] == {"train": {"preset": "tiny", "tokens": 2_000_000, "fraction": 0.1}}
    pairs = [(spec["criterion"], spec["rate"]) for spec in made["selections"]]
    assert pairs == [("low", 0.25), ("low", 0.5), ("high", 0.25), ("high", 0.5)]
    assert all((spec["unit"], spec["within"]) == ("tokens", "domain") for spec in made["selections"])
    assert forms.job_body(form | {"tokens": ["nan"]})["reference"]["train"]["tokens"] == "nan"


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
def test_warnings_come_in_words_and_only_where_they_are_due(change: dict[str, Any], said: str) -> None:
    assert warnings(report()) == []
    (warning,) = warnings(report(**change))
    assert said in warning


def test_a_domain_that_loses_more_than_half_is_named() -> None:
    def shares(before: float, after: float) -> dict[str, float]:
        return {"before": before, "after": after}

    rows = [
        {"name": "kept", "documents": shares(0.5, 0.26), "tokens": shares(0.5, 0.6)},
        {"name": "lost", "documents": shares(0.4, 0.19), "tokens": shares(0.4, 0.1)},
        {"name": "tiny", "documents": shares(0.0001, 0), "tokens": shares(0.0001, 0)},
    ]
    assert losses(rows) == ["lost falls from 40.0 % to 19.0 % of the documents and 40.0 % to 10.0 % of the tokens"]

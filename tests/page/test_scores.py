"""Several scores on the page: explored by rate and by threshold, compared, and composed; jobs without a reference."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import OpenPage
from tests.page.serving import Serving, lines, real_texts, write_jsonl

LONG = 240_000  # ms, for what other processes do


@pytest.fixture(scope="module")
def asked_scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A request over real text with two numbers for each document, `quality` from 0 to 5 and `length`."""
    rows = [row | {"quality": len(set(row["text"])) % 60 / 10, "length": len(row["text"])} for row in real_texts(300)]
    folder = tmp_path_factory.mktemp("scores")
    write_jsonl(folder / "a.jsonl", rows)
    return {
        "corpus": {"paths": [str(folder)], "id_field": "id", "domain_field": "domain"},
        "scores": {"quality": {"field": "quality"}, "length": {"field": "length"}},
        "selections": [
            {"score": "quality", "criterion": "high", "rate": 0.5},
            {"score": "length", "criterion": "medium", "rate": 0.5},
            {"name": "good", "stages": [{"score": "quality", "at_least": 3}]},
        ],
    }


@pytest.fixture(scope="module")
def without(serving: Serving, asked_scores: dict[str, Any]) -> str:
    """A job without a reference."""
    return str(serving.ended(serving.submit(asked_scores))["id"])


def no_wider_than_the_screen(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("width", [1200, 390])
def test_a_job_without_a_reference(serving: Serving, open_page: OpenPage, without: str, shot: Any, width: int) -> None:
    page = open_page(f"{serving.url}/jobs/{without}", viewport={"width": width, "height": 900})
    expect(page.locator(".keeps")).to_contain_text("high-0.5-quality keeps 150 of 300 documents")
    expect(page.locator("#preview figure svg:visible")).to_have_count(1)
    scores = page.get_by_role("region", name="Scores", exact=True)
    expect(scores.locator(".score").first.locator("svg")).to_have_count(3)
    expect(page.get_by_role("region", name="Rank correlation", exact=True).get_by_role("row")).to_have_count(3)
    common = page.get_by_role("region", name="What selections have in common")
    expect(common.get_by_role("row").filter(has_text="high-0.5-quality, good")).to_contain_text("%")
    no_wider_than_the_screen(page)
    shot(page, f"without-reference-{width}")
    sample = page.locator("details.sample").filter(has_text="Around the lower threshold")
    sample.locator("summary").click()
    expect(sample.locator("article")).to_have_count(5)
    assert sample.locator("article .tag").all_inner_texts() == ["left out"] * 2 + ["kept"] * 3
    expect(sample.locator("article").first).to_contain_text("quality")
    report = open_page("about:blank", viewport={"width": width, "height": 900})
    report.set_content(serving.api.get(f"/jobs/{without}/report.html").text)
    expect(report.get_by_role("region", name="Selection good")).to_contain_text("quality of at least 3")
    no_wider_than_the_screen(report)


@pytest.mark.parametrize("scripts", [True, False])
def test_a_score_is_explored_by_rate_and_threshold(
    serving: Serving, open_page: OpenPage, asked: dict[str, Any], asked_scores: dict[str, Any], scripts: bool, shot: Any
) -> None:
    request = asked_scores | {"reference": asked["reference"], "selections": asked["selections"][:2]}
    job = serving.ended(serving.submit(request))["id"]
    page = open_page(f"{serving.url}/jobs/{job}", java_script_enabled=scripts)

    def look() -> None:
        if not scripts:
            page.get_by_role("button", name="Show", exact=True).click()

    page.get_by_label("Score", exact=True).first.select_option("quality")
    page.get_by_text("high", exact=True).first.click()
    look()
    expect(page.locator(".keeps")).to_contain_text("high-0.5-quality keeps 150 of 300")
    expect(page.locator("#preview figcaption")).to_contain_text("Documents by quality")
    page.get_by_text("threshold", exact=True).click()
    if not scripts:
        look()
    page.get_by_label("At least", exact=True).first.fill("3")
    look()
    expect(page.locator(".keeps")).to_contain_text("quality of at least 3, of values from 3 to")
    expect(page.locator("details.sample").filter(has_text="Around the lower threshold")).to_contain_text("quality 3")
    shot(page, f"threshold-{'scripts' if scripts else 'plain'}")
    page.get_by_role("button", name="Make this selection").first.click()
    expect(page.get_by_role("link", name="Download manifest")).to_be_visible(timeout=LONG)
    made = serving.job(job)["selections"][-1]
    assert made["stages"] == [{"score": "quality", "at_least": 3.0}]
    kept = list(lines(serving.api.get(f"{made['manifest_url']}?format=jsonl")))
    assert len(kept) == made["documents"]
    assert min(row["quality"] for row in kept) >= 3
    expect(page.locator(".keeps")).to_contain_text(f"keeps {made['documents']} of 300")


@pytest.mark.parametrize("width", [1200, 390])
def test_a_composite_is_built(serving: Serving, open_page: OpenPage, without: str, width: int, shot: Any) -> None:
    page = open_page(f"{serving.url}/jobs/{without}", "422", viewport={"width": width, "height": 900})
    page.get_by_text("Build a selection by several scores").click()
    form, name = page.locator("#composite"), f"composed-{width}"
    first, second = form.get_by_role("group", name="Stage 1"), form.get_by_role("group", name="Stage 2")
    first.get_by_label("Rule").select_option("thresholds")
    first.get_by_label("Score").select_option("quality")
    first.get_by_label("At least").fill("2")
    expect(first.get_by_label("Rate")).to_be_hidden()
    second.get_by_label("Rule").select_option("low")
    second.get_by_label("Score").select_option("length")
    second.get_by_label("Rate").fill("1.5")
    second.get_by_label("Applied to").select_option("each domain")
    form.get_by_label("Name").fill(name)
    json = form.get_by_label("The selection as JSON")
    expect(json).to_contain_text('{"score": "quality", "at_least": 2.0}')
    expect(json).to_contain_text(f'"name": "{name}"')
    expect(json).to_contain_text('"rate": 1.5, "within": "domain"')
    no_wider_than_the_screen(page)
    shot(page, f"composite-{width}")
    form.get_by_role("button", name="Make this selection").click()
    wrong = page.get_by_role("group", name="Stage 2").locator("div").filter(has=page.get_by_label("Rate"))
    expect(wrong.locator(".wrong")).to_contain_text("rate must be at most 1")
    shot(page, f"composite-wrong-{width}")
    page.get_by_role("group", name="Stage 2").get_by_label("Rate").fill("50%")
    page.get_by_role("button", name="Make this selection").click()
    expect(page.locator(".keeps")).to_contain_text(f"{name} keeps", timeout=LONG)
    made = next(made for made in serving.job(without)["selections"] if made["id"] == name)
    assert made["stages"] == [
        {"score": "quality", "at_least": 2.0},
        {"score": "length", "criterion": "low", "rate": 0.5, "within": "domain"},
    ]


def test_a_sum_of_ranks_without_scripts(serving: Serving, open_page: OpenPage, without: str) -> None:
    page = open_page(f"{serving.url}/jobs/{without}", "422", java_script_enabled=False)
    page.get_by_text("Build a selection by several scores").click()
    page.get_by_role("link", name="The form").click()
    form = page.locator("#composite")
    form.get_by_text("sum of ranks").click()
    form.get_by_label("Score 1").select_option("quality")
    form.get_by_label("Score 2").select_option("length")
    form.get_by_label("Weight").nth(1).fill("-1")
    form.get_by_label("Name").fill("all")
    form.get_by_role("button", name="Show its JSON").click()
    expect(page.get_by_label("The selection as JSON")).to_contain_text('"rank_sum": [["quality", 1], ["length", -1]]')
    page.get_by_role("button", name="Make this selection").click()
    expect(page.locator(".wrong")).to_contain_text("'all' is the name of all documents")
    page.get_by_label("Name").fill("")
    page.get_by_role("button", name="Make this selection").click()
    expect(page.locator(".keeps")).to_contain_text("by several scores")

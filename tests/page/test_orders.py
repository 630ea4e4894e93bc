"""Random selections and those by NLL per byte on the page: made from it, shown, and in the report."""

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.page.conftest import OpenPage
from tests.page.serving import Serving

LONG = 240_000  # ms, for what other processes do


@pytest.mark.parametrize("scripts", [True, False])
def test_an_order_without_a_preview_is_made_and_then_explored(
    serving: Serving, open_page: OpenPage, asked: dict[str, Any], scripts: bool, shot: Any
) -> None:
    job = serving.ended(serving.submit(asked | {"scoring": {"stride": 900 + scripts}}))["id"]
    page = open_page(f"{serving.url}/jobs/{job}", java_script_enabled=scripts)
    page.get_by_text("random", exact=True).click()
    page.get_by_label("Seed of random").fill("3")
    if not scripts:
        page.get_by_role("button", name="Show").click()
    expect(page.locator(".keeps")).to_contain_text("There is no preview: the documents are not ranked by the hash")
    expect(page.locator("#preview figure")).to_have_count(0)
    shot(page, f"unseen-{'scripts' if scripts else 'plain'}")
    page.get_by_role("button", name="Make this selection").click()
    expect(page.get_by_role("link", name="Download manifest")).to_be_visible(timeout=LONG)
    expect(page.locator(".keeps")).to_contain_text("random-0.5-seed3 keeps")
    expect(page.locator(".keeps")).to_contain_text("drawn at random with seed 3")
    expect(page.locator("#preview figcaption")).to_contain_text("kept (drawn at random), the grey part is left out")
    assert page.locator("details.sample").count() == 3
    shot(page, f"random-{'scripts' if scripts else 'plain'}")
    made = serving.job(job)["selections"][-1]
    assert (made["id"], made["seed"]) == ("random-0.5-seed3", 3)
    page.get_by_text("low", exact=True).click()
    page.get_by_role("group", name="Ordered by NLL per").get_by_text("byte").click()
    if not scripts:
        page.get_by_role("button", name="Show").click()
    expect(page.locator(".keeps")).to_contain_text("not ranked by NLL per byte yet")
    page.get_by_role("button", name="Make this selection").click()
    expect(page.locator(".keeps")).to_contain_text("low-0.5-byte keeps", timeout=LONG)
    expect(page.locator(".keeps")).to_contain_text("the most predictable by NLL per byte")
    row = page.get_by_role("region", name="Table of selections").get_by_role("row").filter(has_text="random-0.5-seed3")
    row.get_by_role("link", name="random-0.5-seed3").click()
    expect(page.locator(".keeps")).to_contain_text("random-0.5-seed3 keeps")


def test_samples_of_a_selection_by_byte_stand_around_its_own_thresholds(
    serving: Serving, open_page: OpenPage, asked: dict[str, Any], shot: Any
) -> None:
    specs = [{"criterion": "medium", "rate": 0.5, "per": "byte"}, {"criterion": "random"}]
    job = serving.ended(serving.submit(asked | {"selections": specs}))["id"]
    page = open_page(f"{serving.url}/jobs/{job}")
    expect(page.locator(".keeps")).to_contain_text("medium-0.5-byte keeps")
    for side, tags in (("lower", [False, False, True, True, True]), ("upper", [True, True, False, False, False])):
        sample = page.locator("details.sample").filter(has_text=f"Around the {side} threshold")
        expect(sample.locator("summary")).to_contain_text("by NLL per byte")
        sample.locator("summary").click()
        expect(sample.locator("article")).to_have_count(5)
        assert sample.locator("article .tag").all_inner_texts() == ["kept" if is_ else "left out" for is_ in tags]
    page.locator("details.sample").filter(has_text="Highest perplexity").locator("summary").click()
    expect(page.locator("details.sample").filter(has_text="Highest perplexity").locator("article")).to_have_count(5)
    assert page.locator("details.sample").filter(has_text="Highest perplexity").locator(".tag").count() == 0
    shot(page, "byte")
    page.goto(f"{serving.url}/jobs/{job}/documents?rank=10&count=5&per=byte")
    expect(page.locator("#main")).to_contain_text("in the order of NLL per byte")
    page.get_by_role("link", name="Higher NLL per byte").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("ranks 15 to 19")
    report = open_page("about:blank")
    report.set_content(serving.api.get(f"/jobs/{job}/report.html").text)
    region = report.get_by_role("region", name="Selection medium-0.5-byte")
    expect(region.locator(".keeps")).to_contain_text("the middle by NLL per byte")
    assert region.locator("article").count() == 10
    drawn = report.get_by_role("region", name="Selection random-0.5")
    expect(drawn.locator(".keeps")).to_contain_text("drawn at random with seed 0")


def test_a_form_asks_for_both(serving: Serving, open_page: OpenPage, asked: dict[str, Any], slow: Any) -> None:
    page = open_page(f"{serving.url}/new")
    page.get_by_label("Paths, one per line").fill(str(slow))
    page.get_by_label("Use a model").check()
    page.get_by_label("Folder or hub id").fill(asked["reference"]["model"])
    page.get_by_label("random", exact=True).check()
    page.get_by_label("Ordered by NLL per").select_option("byte")
    page.get_by_label("Seed of random").fill("7")
    page.get_by_role("button", name="Submit job").click()
    page.wait_for_url("**/jobs/*")
    job = page.url.rpartition("/")[2]
    plain = {"rate": 0.5, "unit": "documents", "within": None}
    assert serving.job(job)["request"]["selections"] == [
        plain | {"criterion": "medium", "per": "byte"},
        plain | {"criterion": "random", "seed": 7},
    ]
    serving.api.post(f"/v1/jobs/{job}/cancel")

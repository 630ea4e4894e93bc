"""The thresholds of selections on the page and in the report, and samples around them, also within domains."""

from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from service.page.format import percentile, perplexity
from tests.page.conftest import OpenPage
from tests.page.serving import Serving, lines

Said = dict[str, tuple[list[str], list[str]]]  # of each selection the values and the percentiles of its thresholds


def test_samples_of_large_domains_stand_around_their_own_thresholds(
    serving: Serving, open_page: OpenPage, asked: dict[str, Any], shot: Any
) -> None:
    spec = {"criterion": "medium", "rate": 0.5, "unit": "tokens", "within": "domain"}
    job = serving.ended(serving.submit(asked | {"selections": [spec]}))["id"]
    url = serving.job(job)["selections"][0]["manifest_url"]
    kept = {row["id"] for row in lines(serving.api.get(f"{url}?format=jsonl"))}
    page = open_page(f"{serving.url}/jobs/{job}")
    largest = [row["domain"] for row in serving.api.get(f"/v1/jobs/{job}/report").json()["domains"][:3]]
    for domain in largest:
        for side, tags in (("lower", [False, False, True, True, True]), ("upper", [True, True, False, False, False])):
            sample = page.locator("details.sample").filter(has_text=f"Around the {side} threshold of {domain}")
            sample.locator("summary").click()
            expect(sample.locator("article")).to_have_count(5)
            assert sample.locator("article .domain").all_inner_texts() == [domain] * 5
            assert sample.locator("article .tag").all_inner_texts() == ["kept" if is_ else "left out" for is_ in tags]
            ids = [text.split(" · ")[0] for text in sample.locator("article .source").all_inner_texts()]
            assert [id_ in kept for id_ in ids] == tags
    shot(page, "samples-within")
    sample.get_by_role("link", name="Shade tokens by surprisal").first.click()
    expect(sample.locator("article").first.locator(".token").nth(1)).to_be_attached(timeout=60_000)
    assert sample.locator("article .domain").all_inner_texts() == [largest[-1]] * 5


def thresholds(job: dict[str, Any], documents: int) -> Said:
    """What is to be said of each selection of a job."""
    said = {}
    for made in job["selections"]:
        ranks = [rank for rank in (made["start"], made["stop"]) if 0 < rank < documents]
        ends = [perplexity(made["perplexity_min"])] * (made["start"] > 0)
        ends += [perplexity(made["perplexity_max"])] * (made["stop"] < documents)
        said[made["id"]] = (ends, [f"percentile {percentile(100 * rank / documents)}" for rank in ranks])
    return said


@pytest.mark.parametrize("width", [1200, 360])
def test_each_selection_says_its_thresholds_by_value_and_percentile(
    serving: Serving, open_page: OpenPage, scored: dict[str, Any], width: int
) -> None:
    documents = serving.api.get(f"/v1/jobs/{scored['id']}/report").json()["eligible"]["documents"]
    said = thresholds(scored, documents)
    assert {name: len(ends) for name, (ends, _) in said.items()} == {
        f"{criterion}-{rate}": 2 if criterion == "medium" else 1
        for criterion in ("low", "medium", "high")
        for rate in ("0.5", "0.25")
    }
    size = {"width": width, "height": 800}
    page = open_page(f"{serving.url}/jobs/{scored['id']}", viewport=size, java_script_enabled=False)
    check_thresholds(page.locator("#preview figure svg:visible"), said)
    for name, (ends, percentiles) in said.items():
        row = page.get_by_role("region", name="Table of selections").get_by_role("row").filter(has_text=name)
        for text in (*ends, *percentiles):
            expect(row).to_contain_text(text)
    report = open_page("about:blank", viewport=size)
    report.set_content(serving.api.get(f"/jobs/{scored['id']}/report.html").text)
    for name in said:
        region = report.get_by_role("region", name=f"Selection {name}")
        check_thresholds(region.locator("figure svg:visible"), said)


def check_thresholds(plot: Locator, said: Said) -> None:
    """Under a plot each selection's caption has its thresholds, is not wider than the plot, and overlaps no other."""
    texts = plot.locator("text").all_text_contents()
    first = {name: next(i for i, text in enumerate(texts) if text.startswith(f"{name}:")) for name in said}
    begins = sorted(first.values())
    for name, (ends, percentiles) in said.items():
        caption = " ".join(texts[first[name] : min((i for i in begins if i > first[name]), default=len(texts))])
        for value, at in zip(ends, percentiles, strict=True):
            assert f"{value} ({at})" in caption
    frame = plot.bounding_box()
    boxes = [box for text in plot.locator("text").all()[begins[0] :] if (box := text.bounding_box())]
    assert frame is not None
    assert len(boxes) == len(texts) - begins[0]
    assert all(frame["x"] <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"] for box in boxes)
    assert all(above["y"] + 0.8 * above["height"] <= below["y"] for above, below in pairwise(boxes))

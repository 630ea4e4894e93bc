"""The page in a real browser on a real service, from submitting a job to downloading a manifest."""

import hashlib
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import OpenPage
from tests.page.serving import Line, Serving, lines
from tests.service.pool import until

LONG = 240_000  # ms, for what other processes do


def submit(page: Page, corpus: Path, model: Path) -> None:
    """Fills in the form of a new job and sends it."""
    page.get_by_label("Title").fill("Old <books>")
    page.get_by_label("Paths, one per line").fill(str(corpus))
    page.get_by_label("Id field").fill("id")
    page.get_by_label("Domain field").fill("domain")
    page.get_by_label("Use a model").check()
    page.get_by_label("Folder or hub id").fill(str(model))
    page.get_by_label("low", exact=True).check()
    page.get_by_label("Rates").fill("50%, 0.25")
    page.get_by_role("button", name="Submit job").click()


def test_from_submitting_to_a_manifest_without_a_reload(
    serving: Serving, open_page: OpenPage, slow: Path, model: Path, shot: Any
) -> None:
    page = open_page(f"{serving.url}/new")
    shot(page, "new")
    submit(page, slow, model)
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f]+$"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Old <books>")
    page.evaluate("window.stillHere = true")
    with serving.halted(page.url.rpartition("/")[2]):
        expect(page.locator(".stages .now")).to_have_text("scoring")
        expect(page.get_by_role("heading", name="So far partial")).to_be_visible()
        expect(page.get_by_role("table")).to_contain_text("serve-0")
        expect(page.get_by_role("table")).to_contain_text("s ago")
        shot(page, "running")
    expect(page.get_by_role("heading", name="Explore a selection")).to_be_visible(timeout=LONG)
    assert page.evaluate("window.stillHere")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download manifest").click()
    saved = Path(waiting.value.path()).read_bytes()
    assert waiting.value.suggested_filename == "manifest-low-0.5.parquet"
    url = page.get_by_role("link", name="Download manifest").get_attribute("href")
    assert serving.api.head(str(url)).headers["etag"] == f'"{hashlib.sha256(saved).hexdigest()}"'
    job = serving.job(page.url.rpartition("/")[2])
    assert [made["id"] for made in job["selections"]] == ["low-0.5", "low-0.25", "medium-0.5", "medium-0.25"]
    page.goto(serving.url)
    expect(page.get_by_role("link", name="Old <books>").first).to_be_visible()


def keeps(page: Page) -> tuple[int, int]:
    """The documents and tokens that the page says a selection keeps."""
    text = page.locator(".keeps").inner_text().replace(",", "")
    found = re.search(r"keeps (\d+) of \d+ documents .* and (\d+) of \d+ tokens", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


def test_a_selection_is_what_its_preview_showed(
    serving: Serving, open_page: OpenPage, asked: dict[str, Any], shot: Any
) -> None:
    job = serving.ended(serving.submit(asked))["id"]
    page = open_page(f"{serving.url}/jobs/{job}")
    expect(page.locator(".keeps")).to_contain_text("medium-0.5")
    shot(page, "result")
    page.locator("#rate-slider").focus()
    for _ in range(13):
        page.keyboard.press("ArrowLeft")
    expect(page.locator(".keeps")).to_contain_text("medium-0.37")
    page.get_by_text("high", exact=True).click()
    page.get_by_role("group", name="Counted in").get_by_text("tokens").click()
    expect(page.locator(".keeps")).to_contain_text("high-0.37-tokens")
    documents, tokens = keeps(page)
    shifts = page.locator(".domains tbody tr").all_inner_texts()
    expect(page.locator("#announcement")).to_contain_text("high-0.37-tokens")
    page.get_by_role("button", name="Make this selection").click()
    expect(page.get_by_role("link", name="Download manifest")).to_be_visible(timeout=LONG)
    assert keeps(page) == (documents, tokens)
    assert page.locator(".domains tbody tr").all_inner_texts() == shifts
    made = serving.job(job)["selections"][-1]
    assert (made["id"], made["documents"], made["tokens"]) == ("high-0.37-tokens", documents, tokens)
    rows = list(lines(serving.api.get(f"{made['manifest_url']}?format=jsonl")))
    assert (len(rows), sum(row["n_tokens"] for row in rows)) == (documents, tokens)
    for shift in shifts:
        domain = shift.split()[0]
        share = sum(row["domain"] == domain for row in rows) / len(rows)
        assert f"{100 * share:.1f} %" in shift


def test_samples_are_loaded_on_demand(serving: Serving, open_page: OpenPage, scored: dict[str, Any], shot: Any) -> None:
    page = open_page(f"{serving.url}/jobs/{scored['id']}")
    sample = page.locator("details.sample").filter(has_text="Around the lower threshold")
    sample.locator("summary").click()
    expect(sample.locator("article")).to_have_count(5)
    tags = sample.locator("article .tag").all_inner_texts()
    assert tags == ["left out", "left out", "kept", "kept", "kept"]
    shown = serving.api.get(f"/v1/jobs/{scored['id']}/documents", params={"rank": 98, "count": 5}).json()["data"]
    for article, row in zip(sample.locator("article .text").all_inner_texts(), shown, strict=True):
        assert " ".join(row["text"][:200].split()) in " ".join(article.split())
    sample.get_by_role("link", name="Shade tokens by surprisal").first.click()
    shaded = sample.locator("article").first.locator(".text")
    expect(shaded.locator(".token").nth(1)).to_have_attribute("title", re.compile(r"^\d+\.\d\d nats$"), timeout=LONG)
    assert " ".join(shown[0]["text"][:200].split()) in " ".join(shaded.inner_text().split())
    shot(page, "samples")


def test_the_page_follows_a_job_whose_worker_was_killed(
    serving: Serving, open_page: OpenPage, slow_request: Callable[[], dict[str, Any]]
) -> None:
    job = serving.submit(slow_request())
    with serving.halted(job):
        page = open_page(f"{serving.url}/jobs/{job}")
        expect(page.locator(".stages .now")).to_have_text("scoring")
        os.kill(serving.worker(), signal.SIGKILL)
    expect(page.get_by_role("heading", name="Explore a selection")).to_be_visible(timeout=LONG)
    expect(page.locator(".tile").first).to_contain_text("192")


def test_a_lost_connection_is_shown_and_restored(
    serving: Serving, open_page: OpenPage, slow_request: Callable[[], dict[str, Any]]
) -> None:
    line = Line(serving.url)
    job = serving.submit(slow_request())
    with serving.halted(job):
        page = open_page(f"{line.url}/jobs/{job}", expected="net::ERR")
        expect(page.locator(".stages .now")).to_have_text("scoring")
        line.cut()
        expect(page.locator(".lost")).to_contain_text("The connection to the service is lost")
        line.mend()
        expect(page.locator(".lost")).to_be_hidden(timeout=LONG)
        expect(page.locator(".stages .now")).to_have_text("scoring")
        line.cut()
        expect(page.locator(".lost")).to_be_visible()
    serving.ended(job)
    line.mend()
    expect(page.get_by_role("heading", name="Explore a selection")).to_be_visible(timeout=LONG)
    page.close()
    line.close()


def test_a_job_is_cancelled(
    serving: Serving, open_page: OpenPage, slow_request: Callable[[], dict[str, Any]], shot: Any
) -> None:
    job = serving.submit(slow_request())
    with serving.halted(job):
        page, watched = open_page(f"{serving.url}/jobs/{job}"), open_page(f"{serving.url}/jobs/{job}")
        page.get_by_role("button", name="Cancel job").click()
        expect(page.get_by_role("heading", name="Cancelled")).to_be_visible()
        expect(watched.locator("#announcement")).to_have_text("The job was cancelled.")
        assert serving.job(job)["status"] == "cancelled"
        shot(page, "cancelled")


def test_everything_works_without_javascript(
    serving: Serving, open_page: OpenPage, corpus: Path, model: Path, slow_request: Callable[[], dict[str, Any]]
) -> None:
    page = open_page(f"{serving.url}/new", java_script_enabled=False)
    submit(page, corpus, model)
    job = page.url.rpartition("/")[2]
    serving.ended(job)
    if page.get_by_role("link", name="Refresh").count():
        page.get_by_role("link", name="Refresh").click()
    page.get_by_label("Rate", exact=True).fill("0.2")
    page.get_by_text("high", exact=True).click()
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".keeps")).to_contain_text("high-0.2")
    documents, tokens = keeps(page)
    page.get_by_role("button", name="Make this selection").click()
    made = serving.job(job)["selections"][-1]
    assert (made["id"], made["documents"], made["tokens"]) == ("high-0.2", documents, tokens)
    page.locator("details.sample summary").first.click()
    page.get_by_role("link", name="Read these 5 documents").first.click()
    expect(page.locator("article")).to_have_count(5)
    page.get_by_role("link", name="Higher perplexity").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("ranks 5 to 9")
    running = serving.submit(slow_request())
    with serving.halted(running):
        page.goto(f"{serving.url}/jobs/{running}")
        page.get_by_role("link", name="Refresh").click()
        page.get_by_role("button", name="Cancel job").click()
        expect(page.get_by_role("heading", name="Cancelled")).to_be_visible()


def test_jobs_are_listed_in_pages(serving: Serving, open_page: OpenPage, scored: dict[str, Any], shot: Any) -> None:
    def failed() -> int:
        return len(serving.api.get("/v1/jobs?status=failed&limit=200").json()["data"])

    before = failed()  # of other tests
    for _ in range(21):
        serving.submit({"corpus": {"paths": ["/nowhere/*.parquet"]}})
    page = open_page(f"{serving.url}/?status=failed")
    until(lambda: failed() == before + 21)
    page.reload()
    expect(page.locator("tbody tr")).to_have_count(20)
    page.get_by_role("link", name="Older jobs").click()
    expect(page.locator("tbody tr")).to_have_count(before + 1)
    expect(page.locator("tbody tr").first).to_contain_text("/nowhere/*.parquet: there is no file")
    page.locator("tbody a").first.click()
    expect(page.get_by_role("alert")).to_contain_text("/nowhere/*.parquet")
    page.goto(f"{serving.url}/?status=succeeded")
    expect(page.locator("table")).to_contain_text(scored["id"])
    page.goto(f"{serving.url}/")
    shot(page, "jobs")


def test_an_unknown_job_is_an_error_page(serving: Serving, open_page: OpenPage) -> None:
    page = open_page(f"{serving.url}/jobs/nothing", expected="404")
    expect(page.get_by_role("alert")).to_contain_text("there is no job nothing")


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}, {}]
)
def test_forms_of_other_sites_are_refused(serving: Serving, scored: dict[str, Any], headers: dict[str, str]) -> None:
    path = f"/jobs/{scored['id']}"
    posts = [
        ("/jobs", {"paths": "/etc"}),
        ("/new", {"paths": "/etc"}),
        (f"{path}/cancel", {}),
        (f"{path}/selections", {"rate": "0.1"}),
        (f"{path}/exports", {"selection": "all"}),
        (f"{path}/ablations/x/cancel", {}),
    ]
    before = len(serving.api.get("/v1/jobs?limit=200").json()["data"])
    for url, data in posts:
        answer = serving.api.post(url, data=data, headers=headers)
        assert answer.status_code == 403
    assert len(serving.api.get("/v1/jobs?limit=200").json()["data"]) == before

"""Every view with hostile texts, on narrow screens, in dark mode, by keyboard, and under axe's accessibility rules."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import OpenPage
from tests.page.serving import Serving, write_jsonl

SCRIPT = "<script>window.hacked = true</script>"
IMAGE = '<img src=x onerror="window.hacked = true"> {{ 7 * 7 }} \' " </div></details><!--'
RIGHT_TO_LEFT = "invoice \u202egpj.exe\u202c and \u2067\u05e9\u05dc\u05d5\u05dd\u2069 \u200bzero"
NULS = "a\x00b\x07c\x1b[31md \x7f\x85 tab\tnew\nline"
EMOJI = "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301\u0301\u0301\u0301 \U0010ffff"
LONG = bool(os.environ.get("WINNOW_TEST_LONG"))  # set by `make page`
LINE = 1_000_000 if LONG else 60_000  # characters
HOSTILE = [SCRIPT, IMAGE, RIGHT_TO_LEFT, NULS, EMOJI, "word " * (LINE // 5), "javascript:alert(1)", "🙂" * 50]
IN_DARK = {"result", "running"} | ({"jobs", "new", "explored", "documents"} if LONG else set())
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


@pytest.fixture(scope="session")
def hostile(serving: Serving, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A scored job over hostile texts, which have hostile ids, domains and a hostile file name too."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [{"text": text, "id": text[:200], "domain": text[:80]} for text in HOSTILE]
    path = write_jsonl(folder / "<b>&'\u202e.jsonl", rows)
    job = serving.ended(
        serving.submit(
            {
                "corpus": {"paths": [str(path)], "id_field": "id", "domain_field": "domain"},
                "reference": {"model": str(model)},
                "selections": [{"criterion": "low", "rate": 1}],
            }
        )
    )
    assert job["status"] == "succeeded", job["error"]
    return job


def test_hostile_texts_are_only_ever_text(
    serving: Serving, open_page: OpenPage, hostile: dict[str, Any], shot: Any
) -> None:
    page = open_page(f"{serving.url}/jobs/{hostile['id']}")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    names = page.locator(".domains tbody th").all_inner_texts()
    assert SCRIPT in names
    for sample in page.locator("details.sample").all():
        sample.locator("summary").click()
    expect(page.locator("article .text")).not_to_have_count(0)
    expect(page.get_by_text("Reading …")).to_have_count(0)
    shot(page, "hostile")
    texts = "\n".join(page.locator("article .text").all_text_contents())
    assert SCRIPT in texts
    assert IMAGE in texts
    assert "a␀b␇c␛[31md ␡⟨U+0085⟩ tab\tnew\nline" in texts
    assert "invoice ⟨U+202E⟩gpj.exe⟨U+202C⟩" in texts
    assert "\u202e" not in page.content()
    assert "\x00" not in page.content()
    assert page.locator("article .text script, article .text img").count() == 0
    assert page.evaluate("window.hacked") is None
    page.goto(f"{serving.url}/")
    expect(page.locator("tbody")).to_contain_text("<b>&'⟨U+202E⟩.jsonl")
    assert dialogs == []


def test_an_export_of_a_hostile_file_name(serving: Serving, open_page: OpenPage, hostile: dict[str, Any]) -> None:
    job = f"/jobs/{hostile['id']}"
    serving.api.post(f"/v1{job}/selections/low-1/exports", json={}).raise_for_status()
    page = open_page(f"{serving.url}{job}")
    file = page.get_by_role("region", name="low-1 format of the corpus").locator("tbody tr")
    expect(file.locator("th")).to_have_text("<b>&'⟨U+202E⟩.jsonl")
    with page.expect_download() as waiting:
        file.get_by_role("link").click()
    expect(file.locator("code")).to_have_text(hashlib.sha256(Path(waiting.value.path()).read_bytes()).hexdigest())
    assert page.evaluate("window.hacked") is None


def test_a_hostile_report_is_only_text(serving: Serving, open_page: OpenPage, hostile: dict[str, Any]) -> None:
    answer = serving.api.get(f"/jobs/{hostile['id']}/report.html")
    assert answer.headers["content-disposition"].startswith("attachment")
    page = open_page("about:blank")
    page.set_content(answer.text)
    assert SCRIPT in page.locator(".domains tbody th").all_inner_texts()
    assert page.locator("script, img").count() == 0
    assert page.evaluate("window.hacked") is None


def test_a_long_line_makes_no_long_page(serving: Serving, hostile: dict[str, Any]) -> None:
    path = f"/jobs/{hostile['id']}"
    assert len(serving.api.get(path).content) < 150_000
    found = serving.api.get(f"/v1{path}/documents", params={"count": 8}).json()["data"]
    (rank,) = [row["rank"] for row in found if row["characters"] == LINE]
    five = serving.api.get(f"{path}/documents", params={"rank": rank, "count": 5}).text
    assert f"The first 2,000 of {LINE:,} characters." in five


def views(serving: Serving, scored: dict[str, Any]) -> dict[str, str]:
    """The address of each view."""
    job = f"{serving.url}/jobs/{scored['id']}"
    return {
        "jobs": f"{serving.url}/",
        "new": f"{serving.url}/new",
        "result": job,
        "explored": f"{job}?criterion=low&rate=0.1&unit=tokens&within=domain&by=tokens",
        "unseen": f"{job}?criterion=random&rate=0.1&seed=5",
        "documents": f"{job}/documents?rank=10&count=5",
        "composite": f"{job}/composites",
        "api": f"{serving.url}/docs",
        "signin": f"{serving.url}/signin",
    }


@pytest.fixture
def running(serving: Serving, slow_request: Callable[[], dict[str, Any]]) -> Iterator[str]:
    """The address of a job that has not ended, and is cancelled in the end."""
    job = serving.submit(slow_request())
    with serving.halted(job):
        yield f"{serving.url}/jobs/{job}"
        serving.api.post(f"/v1/jobs/{job}/cancel")


def test_each_view_fits_a_narrow_screen(
    serving: Serving, open_page: OpenPage, scored: dict[str, Any], hostile: dict[str, Any], running: str, shot: Any
) -> None:
    addresses = views(serving, scored) | {"running": running, "hostile": f"{serving.url}/jobs/{hostile['id']}"}
    page = open_page(serving.url, viewport={"width": 360, "height": 740})
    for name, address in addresses.items():
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
        shot(page, f"narrow-{name}")


def test_no_column_is_cut_on_a_narrow_screen(
    serving: Serving, open_page: OpenPage, scored: dict[str, Any], running: str
) -> None:
    """Also not inside a region that scrolls: tables show each row as a block with a line for each cell."""
    serving.ended(serving.submit({"name": "failed", "corpus": {"paths": ["/nowhere/" + "a-long-name-" * 20]}}))
    page = open_page(serving.url, viewport={"width": 390, "height": 844})
    cut = """() => [...document.querySelectorAll("table, .scroll")].filter(element =>
        element.scrollWidth > element.clientWidth + 1 || element.getBoundingClientRect().right > innerWidth
        ).map(element => element.outerHTML.slice(0, 100))"""
    for name, address in (views(serving, scored) | {"running": running}).items():
        if name not in ("jobs", "result", "running"):  # others have the same tables, or none
            continue
        page.goto(address)
        for details in page.locator("details").all():
            details.evaluate("element => element.open = true")
        assert page.evaluate(cut) == [], address
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, address
    page.goto(serving.url)
    row = page.get_by_role("row").filter(has_text="failed").first
    for label in ("Selections", "Duration", "Submitted"):
        expect(row.locator(f"[data-label={label}]")).to_be_in_viewport()


def test_the_api_page_takes_nothing_from_another_host(serving: Serving, open_page: OpenPage) -> None:
    page = open_page("about:blank")
    hosts: list[str] = []
    page.on("request", lambda request: hosts.append(request.url))
    page.goto(f"{serving.url}/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    page.locator(".opblock", has_text="/v1/jobs").first.click()
    expect(page.get_by_role("button", name="Try it out")).to_be_visible()
    assert [url for url in hosts if not url.startswith((serving.url, "data:"))] == []
    page.goto(f"{serving.url}/docs")
    assert "script-src 'self'" in serving.api.get("/docs").headers["content-security-policy"]


def serious(page: Page) -> list[str]:
    """What axe finds that is serious or worse."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"][:3]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    serving: Serving, open_page: OpenPage, scored: dict[str, Any], running: str, scheme: Any, shot: Any
) -> None:
    page = open_page(serving.url, color_scheme=scheme)
    found = {}
    for name, address in (views(serving, scored) | {"running": running}).items():
        if (scheme == "dark" and name not in IN_DARK) or name == "api":  # Swagger UI's faults are not ours to mend
            continue
        page.goto(address)
        if name == "result":
            page.locator("details.sample summary").nth(1).click()
            expect(page.locator(".sample article")).to_have_count(5)
        for details in page.locator("details").all():
            details.evaluate("element => element.open = true")
        found[name] = serious(page)
        shot(page, f"{scheme}-{name}")
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_the_keyboard_is_enough(serving: Serving, open_page: OpenPage, scored: dict[str, Any]) -> None:
    page = open_page(f"{serving.url}/jobs/{scored['id']}")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.name") != "criterion":
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".keeps")).to_contain_text("high-0.5")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    expect(page.locator(".keeps")).to_contain_text("high-1")

"""The form of a new job: a look at its corpus, with and without JavaScript, and a form that failed."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.conftest import OpenPage
from tests.page.serving import Line, Serving, write_jsonl
from tests.page.test_views import IMAGE, RIGHT_TO_LEFT, SCRIPT, serious

TEXT = "A text of many words. " * 40


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two formats with a text field of another name, and files that are left out."""
    folder = tmp_path_factory.mktemp("mixed")
    rows: dict[str, list[Any]] = {
        "content": [TEXT, "A second text."],
        "url": ["https://a.org/1", None],
        "stars": [1, 2],
    }
    write_jsonl(folder / "a.jsonl", [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)])
    pq.write_table(pa.table(rows), folder / "b.parquet")
    for name in ("LICENSE", "README.md", "read.py"):
        (folder / name).write_text("About.")
    return folder


def typed(page: Page) -> list[list[str]]:
    """The names and values that the form would send."""
    read = "form => [...new FormData(form)].filter(([name]) => name !== 'key')"
    return list(page.locator("#new-job").evaluate(read))


def fill_in(page: Page, corpus: Path, model: Path) -> None:
    """Fills in the form, each field with something else than its default."""
    page.get_by_label("Paths, one per line").fill(f"{corpus}\n{corpus}/a.jsonl")
    page.get_by_label("Id field").fill("stars")
    page.get_by_label("Include").fill("*.jsonl *.parquet *.py")
    page.get_by_label("Exclude").fill("other/** LICENSE")
    page.get_by_label("Preset").select_option("gpt2-124m")
    page.get_by_label("Tokens to train on").fill("3e6")
    page.get_by_label("Share of documents").fill("0.2")
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_label("Use a model").check()
    page.get_by_label("Folder or hub id").fill(str(model))
    page.get_by_label("medium", exact=True).uncheck()
    page.get_by_label("high", exact=True).check()
    page.get_by_label("Rates").fill("25%, 0.5")
    page.get_by_label("Counted in").select_option("tokens")
    page.get_by_text("Scoring options").click()
    page.get_by_label("Stride").fill("9")
    page.get_by_label("Data type").select_option("float32")


def below(page: Page, heading: str) -> Locator:
    """The list or table below a heading."""
    return page.get_by_role("heading", name=heading, exact=True).locator("xpath=following-sibling::*[1]")


@pytest.mark.parametrize("scripts", [True, False])
def test_a_look_at_the_corpus_keeps_what_was_typed(
    serving: Serving, open_page: OpenPage, mixed: Path, model: Path, shot: Any, scripts: bool
) -> None:
    page = open_page(f"{serving.url}/new", java_script_enabled=scripts)
    page.evaluate("window.stillHere = true")
    fill_in(page, mixed, model)
    given = typed(page)
    page.get_by_role("button", name="Check corpus").click()
    expect(page.get_by_role("alert")).to_contain_text("A job over this corpus would fail")
    expect(page.get_by_role("alert")).to_contain_text("no field 'text' for corpus.text_field")
    assert typed(page) == given
    expect(page.get_by_text("Scoring options")).to_be_visible()
    body = {"paths": [str(mixed)], "include": ["*.jsonl", "*.parquet", "*.py"], "exclude": ["other/**", "LICENSE"]}
    found = serving.api.post("/v1/corpora/check", json=body | {"id_field": "stars"}).json()
    tiles = dict(zip(page.locator(".tile dt").all_inner_texts(), page.locator(".tile dd").all(), strict=True))
    expect(tiles["Files"]).to_have_text("21 jsonl, 1 parquet")
    expect(tiles["Bytes"]).to_have_text(f"{sum(file['bytes'] for file in found['files']):,}")
    expect(tiles["Tokens"]).to_have_text(f"about {found['estimate']['tokens']:,}")
    left = [
        f"1 file ({left['reason']}), such as {left['example']}" if left["files"] else left["reason"]
        for left in found["left_out"]
    ]
    assert below(page, "Left out").locator("li").all_inner_texts() == left != []
    fields = [f"{field['name']}\t{field['type']}" for field in found["fields"]]
    assert below(page, "Fields").locator("tbody tr").all_inner_texts() == fields != []
    assert page.locator("#check .text").all_text_contents() == found["documents"]
    assert found["documents"][0] == TEXT[:500]
    shot(page, f"check-{'scripts' if scripts else 'plain'}")

    page.get_by_role("button", name="Use content as Text field").click()
    expect(page.get_by_label("Text field", exact=True)).to_have_value("content")
    expect(page.get_by_role("heading", name="A job over this corpus would fail")).to_have_count(0)
    page.get_by_role("button", name="Use url as Domain field").click()
    expect(page.get_by_label("Domain field")).to_have_value("url")
    expect(page.get_by_role("button", name="Use url as Id field")).to_be_visible()
    expect(page.get_by_text("in the form", exact=True)).to_have_count(2)
    used = {"text_field": "content", "domain_field": "url"}
    assert typed(page) == [[name, used.get(name, value)] for name, value in given]
    assert bool(page.evaluate("window.stillHere")) == scripts
    page.get_by_role("button", name="Submit job").click()
    page.wait_for_url("**/jobs/*")
    job = serving.job(page.url.rpartition("/")[2])
    assert job["request"]["corpus"]["text_field"] == "content"
    assert [made["criterion"] for made in job["request"]["selections"]] == ["high", "high"]


@pytest.mark.parametrize("scripts", [True, False])
def test_a_corpus_that_cannot_be_read_is_an_error_in_words(
    serving: Serving, open_page: OpenPage, mixed: Path, model: Path, scripts: bool
) -> None:
    page = open_page(f"{serving.url}/new", expected="422", java_script_enabled=scripts)
    fill_in(page, mixed, model)
    for path, said in ((f"{mixed}/<b>gone</b>", "<b>gone</b>: no such file or folder"), (" ", "paths")):
        page.get_by_label("Paths, one per line").fill(path)
        given = typed(page)
        page.get_by_role("button", name="Check corpus").click()
        expect(page.get_by_role("alert")).to_contain_text("The corpus cannot be checked")
        expect(page.get_by_role("alert")).to_contain_text(said)
        assert [value.strip() for _, value in typed(page)] == [value.strip() for _, value in given]


def test_a_check_without_an_answer_says_so(serving: Serving, open_page: OpenPage, mixed: Path) -> None:
    line = Line(serving.url)
    page = open_page(f"{line.url}/new", expected="Failed to load resource")
    paths, check = page.get_by_label("Paths, one per line"), page.get_by_role("button", name="Check corpus")
    paths.fill("/" * 400_000)
    check.click()
    expect(page.locator("#check")).to_contain_text(
        "cannot be checked (a request body may have at most 1,048,576 bytes)"
    )
    paths.fill(str(mixed))
    line.cut()
    check.click()
    expect(page.locator("#check")).to_contain_text("The corpus cannot be checked (Failed to fetch)")
    expect(paths).to_have_value(str(mixed))
    line.mend()
    check.click()
    expect(page.get_by_role("heading", name="What the corpus holds")).to_be_visible()
    page.close()
    line.close()


@pytest.fixture(scope="session")
def hostile_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose texts, names of files and names of fields are hostile and long."""
    folder = tmp_path_factory.mktemp("hostile") / ("a-long-name-" * 12)
    row: dict[str, Any] = {
        "text": SCRIPT + IMAGE,
        "source": RIGHT_TO_LEFT,
        SCRIPT: {IMAGE: [1]},
        "f" * 150: "x",
        "deep": {"g" * 60: 0.5},
    }
    row |= {f"field {i}": i for i in range(30)}
    write_jsonl(folder / "<b>&'\u202e.jsonl", [row, row])
    (folder / "<img src=x onerror='window.hacked = true'>.md").write_text("About.")
    (folder / f"{'LONG' * 50}.py").touch()
    write_jsonl(folder / "z.jsonl", [{"other": 1}])
    return folder


def test_a_hostile_corpus_is_only_text(serving: Serving, open_page: OpenPage, hostile_corpus: Path) -> None:
    page = open_page(f"{serving.url}/new")
    page.get_by_label("Paths, one per line").fill(str(hostile_corpus))
    page.get_by_role("button", name="Check corpus").click()
    look = page.locator("#check")
    expect(look.locator(".text").first).to_contain_text(SCRIPT)
    expect(below(page, "Left out")).to_contain_text("<img src=x onerror='window.hacked = true'>.md")
    expect(look).to_contain_text(SCRIPT)
    expect(page.get_by_role("alert")).to_contain_text("z.jsonl")
    assert look.locator("script, img, b").count() == 0
    assert page.evaluate("window.hacked") is None
    assert "\u202e" not in page.content()


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 360)])
def test_a_look_fits_a_narrow_screen(
    serving: Serving, open_page: OpenPage, hostile_corpus: Path, scheme: Any, width: int, shot: Any
) -> None:
    page = open_page(f"{serving.url}/new", viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.get_by_label("Paths, one per line").fill(str(hostile_corpus))
    page.get_by_role("button", name="Check corpus").click()
    expect(page.get_by_role("heading", name="First documents")).to_be_visible()
    page.get_by_text("more fields").click()
    shot(page, f"check-{width}")
    outside = """width => [...document.querySelectorAll("#check *:not(.visually-hidden)")].filter(element =>
        element.getBoundingClientRect().right > width || element.scrollWidth > element.clientWidth + 1 &&
        getComputedStyle(element).display !== "inline").map(element => element.outerHTML.slice(0, 200))"""
    assert page.evaluate(outside, width) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious(page) == []


def test_the_keyboard_puts_a_field_into_the_form(serving: Serving, open_page: OpenPage, mixed: Path) -> None:
    page = open_page(f"{serving.url}/new")
    page.get_by_label("Paths, one per line").fill(str(mixed))
    page.get_by_role("button", name="Check corpus").press("Enter")
    expect(page.locator("#announcement")).to_have_text("The corpus has 2 files.")
    page.get_by_role("button", name="Use url as Id field").press("Enter")
    expect(page.get_by_role("button", name="Use url as Id field")).to_have_count(0)
    expect(page.get_by_label("Id field")).to_have_value("url")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Use content as Text field")).to_be_focused()


def test_a_new_job_takes_the_settings_of_one_that_failed(
    serving: Serving, open_page: OpenPage, mixed: Path, model: Path
) -> None:
    page = open_page(f"{serving.url}/new")
    fill_in(page, mixed, model)
    page.get_by_label("Train one on a part of this corpus").check()
    given = typed(page)
    page.get_by_role("button", name="Submit job").click()
    expect(page.get_by_role("alert")).to_contain_text("no field 'text'")
    expect(page.get_by_role("heading", name="What remains")).to_be_visible()
    page.get_by_role("link", name="New job with the same settings").click()
    expect(page.locator(".hint")).to_contain_text("Filled in as job")
    assert "not as there" not in page.locator(".hint").inner_text()
    page.get_by_label("Folder or hub id").fill(str(model))  # which a training does not use
    assert [value.replace(",", "") for _, value in typed(page)] == [
        {"3e6": "3000000", "25% 0.5": "0.25 0.5"}.get(plain := value.replace(",", ""), plain) for _, value in given
    ]


@pytest.mark.parametrize(
    ("form", "sent", "kept"),
    [
        ("ablations", {"selection": "low-0.5", "tokens": "ten", "seeds": "7", "heldout": "a=/b <c>"}, ["ten", "7"]),
        ("exports", {"selection": "low-0.5", "format": "jsonl.zst", "out": "/elsewhere/<b>"}, ["/elsewhere/&lt;b&gt;"]),
    ],
)
def test_other_forms_that_failed_keep_what_was_typed(
    serving: Serving, scored: dict[str, Any], form: str, sent: dict[str, str], kept: list[str]
) -> None:
    answer = serving.api.post(f"/jobs/{scored['id']}/{form}", data=sent, headers={"Origin": serving.url})
    assert answer.status_code == 422
    assert "was not accepted" in answer.text
    for value in kept:
        assert f'value="{value}"' in answer.text
    assert f'value="{sent["selection"]}"' in answer.text
    if form == "ablations":
        assert "a=/b &lt;c&gt;</textarea>" in answer.text
        assert 'value="low-0.5" checked' in answer.text
        assert answer.text.count(" checked") == 1
    else:
        assert '<option value="jsonl.zst" selected>' in answer.text


def test_a_form_that_failed_keeps_what_was_typed(serving: Serving, open_page: OpenPage, model: Path) -> None:
    page = open_page(f"{serving.url}/new", expected="422")
    fill_in(page, Path("/data/<b>x</b>.parquet"), model)
    page.get_by_label("Rates").fill("1.5")
    given = typed(page)
    page.get_by_label("Rates").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("selections.0.rate must be at most 1")
    expect(page.locator(".wrong").last).to_have_text("rate must be at most 1")
    expect(page.get_by_label("Rates")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Rates")).to_have_accessible_description(re.compile("rate must be at most 1"))
    assert typed(page) == given
    page.get_by_label("Train one on a part of this corpus").check()
    page.get_by_label("Tokens to train on").fill("ten")
    page.get_by_label("high", exact=True).uncheck()
    given = typed(page)
    page.get_by_role("button", name="Submit job").click()
    expect(page.get_by_role("alert")).to_contain_text("reference.train.tokens must be a whole number")
    assert typed(page) == given

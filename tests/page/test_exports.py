"""Exports on the page: asked for, followed, downloaded, tried again; by keyboard and without JavaScript."""

import gzip
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from service.contract.permissions import Rules
from service.page.exports import form_values
from service.page.render import render
from tests.page.conftest import OpenPage
from tests.page.serving import Serving, real_texts, write_jsonl
from tests.page.test_page import LONG
from tests.page.test_views import serious
from tests.service.pool import until


def export_of(page: Page, name: str) -> Locator:
    """What the page shows of an export."""
    return page.get_by_role("article", name=name, exact=True)


def hashes(export: Locator) -> dict[str, str]:
    """The SHA-256 of each file, as the page shows them."""
    rows = export.locator("tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("code").inner_text() for row in rows}


def test_an_export_is_asked_for_by_keyboard_followed_and_downloaded(
    serving: Serving, open_page: OpenPage, scored: dict[str, Any], shot: Any
) -> None:
    page = open_page(f"{serving.url}/jobs/{scored['id']}")
    with serving.resting():
        page.get_by_role("row", name="low-0.25").locator("summary").focus()
        for key in ("Enter", "Tab", *"jsonl.gz", "Tab", "Space", "Tab", "Tab", "Enter"):
            page.keyboard.press(key)
        expect(page).to_have_url(re.compile("criterion=low&rate=0.25&.*#export-"))
        page.evaluate("window.stillHere = true")
        export = export_of(page, "low-0.25 jsonl.gz, with scores")
        expect(export).to_contain_text("queued")
    expect(export).to_contain_text("succeeded", timeout=LONG)
    expect(page.locator("#announcement")).to_have_text("The export of low-0.25 has succeeded.")
    assert page.evaluate("window.stillHere")
    kept = 0
    for name, sha256 in hashes(export).items():
        with page.expect_download() as waiting:
            export.get_by_role("link", name=name).click()
        assert waiting.value.suggested_filename == name
        saved = Path(waiting.value.path()).read_bytes()
        assert hashlib.sha256(saved).hexdigest() == sha256
        rows = [json.loads(line) for line in gzip.decompress(saved).splitlines()]
        assert all({"id", "text", "winnow_nll"} <= row.keys() for row in rows)
        kept += len(rows)
    assert {made["id"]: made["documents"] for made in scored["selections"]}["low-0.25"] == kept
    for details in page.locator("details:not(.sample)").all():
        details.evaluate("element => element.open = true")
    assert serious(page) == []
    shot(page, "exports")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_an_export_into_a_folder_without_javascript(
    serving: Serving, open_page: OpenPage, scored: dict[str, Any]
) -> None:
    job, out = f"/jobs/{scored['id']}", serving.exports / "kept"
    page = open_page(f"{serving.url}{job}?criterion=high&rate=0.5", expected="422", java_script_enabled=False)
    page.get_by_text("Export the documents").click()
    asked = page.get_by_role("region", name="Explore a selection")
    asked.get_by_label("Format").select_option("parquet")
    asked.get_by_label("Folder or URL").fill("/elsewhere")
    asked.get_by_role("button", name="Export high-0.5").click()
    expect(page.get_by_role("alert")).to_contain_text("/elsewhere: not under an export root")
    expect(page.get_by_label("Format")).to_have_value("parquet")
    expect(page.get_by_label("Folder or URL")).to_have_value("/elsewhere")
    page.get_by_label("Folder or URL").fill(str(out))
    with serving.resting():
        page.get_by_role("button", name="Export high-0.5").click()
        export = export_of(page, f"high-0.5 parquet, to {out}")
        expect(export).to_contain_text("queued")
    until(lambda: all(each["status"] == "succeeded" for each in serving.api.get(f"/v1{job}/exports").json()["data"]))
    page.get_by_role("link", name="Refresh").click()
    expect(export).to_contain_text("succeeded")
    found = hashes(export)
    assert sorted(found) == ["a.parquet", "b.parquet"]
    assert found == {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in found}
    assert export.get_by_role("link").count() == 0


def test_a_failed_export_says_why_and_is_tried_again(
    serving: Serving, open_page: OpenPage, model: Path, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "changed.jsonl", real_texts(40))
    job = serving.ended(serving.submit({"corpus": {"paths": [str(path)]}, "reference": {"model": str(model)}}))
    scored, when = path.read_bytes(), path.stat()
    path.write_bytes(scored + b'{"text": "One more."}\n')
    page = open_page(f"{serving.url}/jobs/{job['id']}")
    row = page.get_by_role("row", name="all scored documents")
    row.locator("summary").click()
    row.get_by_role("button", name="Export all").click()
    export = export_of(page, "all format of the corpus")
    expect(export.locator(".status")).to_have_text("failed", timeout=LONG)
    expect(export.locator(".notice")).to_contain_text(str(path))
    path.write_bytes(scored)
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    export.get_by_role("button", name="Try again").click()
    expect(export.locator(".status")).to_have_text("succeeded", timeout=LONG)
    assert hashes(export) == {"changed.jsonl": hashlib.sha256(scored).hexdigest()}


def test_a_long_list_of_files_is_folded() -> None:
    file = {"rows": 1, "bytes": 10, "sha256": "0" * 64}
    files = [file | {"path": f"{number}.jsonl"} for number in range(1025)]
    export = {"id": "e", "selection": "all", "status": "succeeded", "out": None, "files": files}
    text = render("_export.html", job_id="j", export=export, files_max=20)
    assert "1,025 documents in 1,025 files, 10,250 bytes" in text
    assert text.count('<tr><th scope="row">') == 20
    assert 'and 1,005 more: <a href="/v1/jobs/j/exports/e">' in text


def test_without_export_roots_the_form_has_no_place() -> None:
    options = {"format": "same", "scores": False, "out": None}
    values = {"job_id": "j", "selection": "all", "options": options, "message": ""}
    assert "Folder or URL" not in render("export.html", **values, **form_values(Rules()))
    assert "under /a, s3://b" in render("export.html", **values, **form_values(Rules(export_roots=("/a", "s3://b"))))

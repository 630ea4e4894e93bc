"""The report as a file, from a service and from `winnow prune`, and its plots as image files."""

import json
import re
import struct
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.page.conftest import OpenPage
from tests.page.serving import Serving
from tests.service.shell import Ran, Run


def in_a_thread(run: Run, *arguments: Any) -> Ran:
    """Runs a command beside the event loop of the browser, which this thread has."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(run, *arguments).result()


def check_plots(folder: Path, selections: list[str]) -> None:
    """Every plot is there as an SVG that needs nothing else and as a PNG of twice its size."""
    names = {path.stem for path in folder.iterdir()}
    assert {"lengths", *(f"histogram-{made}" for made in selections)} <= names
    assert {f"domains-{made}-{what}" for made in selections for what in ("documents", "tokens")} <= names
    for name in names:
        drawing = ET.parse(folder / f"{name}.svg").getroot()
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
        head = (folder / f"{name}.png").read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", head[16:]) == tuple(2 * int(drawing.attrib[side]) for side in ("width", "height"))


def test_a_report_from_a_service(
    serving: Serving, scored: dict[str, Any], open_page: OpenPage, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "report.html"
    ran = in_a_thread(run, "report", scored["id"], "--server", serving.url, "--out", out, "--json")
    assert ran.status == 0, ran.err
    assert {Path(name) for name in json.loads(ran.out)} == {out, *(tmp_path / "new" / "report-plots").iterdir()}
    check_plots(tmp_path / "new" / "report-plots", [made["id"] for made in scored["selections"]])
    text = out.read_text()
    assert re.findall(r'(?:src|href)="(?!#)', text) == []
    page = open_page(out.as_uri())
    for made in scored["selections"]:
        region = page.get_by_role("region", name=f"Selection {made['id']}")
        expect(region.locator(".keeps")).to_contain_text(f"keeps {made['documents']:,} of")
    assert page.locator("article .text").count() >= 20


def test_a_report_from_prune(asked: dict[str, Any], corpus: Path, model: Path, run: Run, tmp_path: Path) -> None:
    flags = ["--id-field", "id", "--domain-field", "domain", "--device", "cpu", "--select", "low", "--rate", "0.4"]
    out = tmp_path / "report.html"
    flags += ["--within", "domain"]
    ran = run("prune", corpus, "--reference", model, *flags, "--out", tmp_path / "kept", "--report", out)
    assert ran.status == 0, ran.err
    check_plots(tmp_path / "report-plots", ["low-0.4-domain"])
    report = json.loads((tmp_path / "kept" / "report.json").read_text())
    text = out.read_text()
    assert f"<strong>{report['selections'][0]['documents']:,}</strong>" in text
    for row in report["domains"][:3]:
        _, _, sample = text.partition(f"Around the upper threshold of {row['domain']} ")
        tags = re.findall(r'class="tag \w+">([\w ]+)<', sample)[:5]
        assert tags == ["kept", "kept", "left out", "left out", "left out"]


def test_there_is_no_report_of_a_job_without_results(serving: Serving, run: Run, tmp_path: Path) -> None:
    job = serving.submit({"corpus": {"paths": ["/nowhere/*.parquet"]}})
    serving.ended(job)
    ran = in_a_thread(run, "report", job, "--server", serving.url, "--out", tmp_path / "report.html")
    assert ran.status == 1
    assert "failed" in ran.err
    assert list(tmp_path.iterdir()) == []

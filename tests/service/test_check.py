"""A look at a corpus before a job: `winnow check` and `POST /v1/corpora/check` say the same."""

import json
from pathlib import Path

import httpx
import pytest

from service.commands.cli import main

KEYS = {"files", "left_out", "fields", "suggested", "documents", "estimate", "problems"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.jsonl").write_text('{"content": "a [b]text[/b]", "url": "https://a.org/x"}\n')
    (tmp_path / "corpus/README.md").write_text("About.")
    return tmp_path / "corpus"


def test_the_command_and_the_api_say_the_same(
    api: httpx.Client, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for field, status in (("content", 0), ("text", 1)):
        assert main(["check", str(folder), "--json", "--text-field", field]) == status
        found = json.loads(capsys.readouterr().out)
        assert found.keys() == KEYS
        assert found["suggested"] == {"text_field": "content", "id_field": "url", "domain_field": "url"}
        body = {"paths": [str(folder)], "text_field": field}
        answer = api.post("/v1/corpora/check", json=body)
        assert (answer.status_code, answer.json()) == (200, found)


def test_what_the_command_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert f"left out: 1 file (documentation), such as {folder}/README.md" in shown
    assert "document 1: 'a [b]text[/b]'" in shown
    assert "suggested: --text-field content --id-field url --domain-field url" in shown
    assert "problem: " in shown
    assert "no field 'text' for corpus.text_field" in shown
    (folder / "b.tar").write_bytes(b"x")
    assert main(["check", str(folder)]) == 1
    assert "b.tar: .tar files are not read; unpack it, or exclude it" in capsys.readouterr().out
    assert main(["check", str(folder), "--exclude", "*.tar", "--text-field", "content"]) == 0


def test_wrong_requests_are_problems(api: httpx.Client, folder: Path) -> None:
    for body, said in (({"paths": [f"{folder}/gone"]}, "no such file"), ({"paths": []}, "paths"), ({}, "paths")):
        answer = api.post("/v1/corpora/check", json=body)
        assert answer.status_code == 422
        assert said in answer.json()["detail"]

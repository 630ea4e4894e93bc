"""A browser for the tests of the page, that fails a test on any error or breach of the content security policy."""

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.page.serving import Serving, real_texts, write_jsonl
from tests.service.pool import sentence, write_corpus

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
SHOTS = Path(os.environ.get("WINNOW_TEST_SHOTS", "build/screenshots"))
TAKE_SHOTS = "WINNOW_TEST_SHOTS" in os.environ or "WINNOW_TEST_LONG" in os.environ  # they take as long as the tests
OpenPage = Callable[..., Page]


def browser_path() -> str:
    """The Chromium to use."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("WINNOW_TEST_BROWSER") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail("no Chromium: run tests/page/browser.sh, or set WINNOW_TEST_BROWSER to its path", pytrace=False)
    return found


# Both end with their module: while they are there, no other test can have an event loop in this thread.
@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    expect.set_options(timeout=120_000)  # ms; other tests may leave little of the cores
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    started = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
    yield started
    started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages in contexts of their own; at the end no page may have had an error, but those a test expects."""
    contexts, errors = [], []

    def start(url: str, expected: str | None = None, **options: Any) -> Page:
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)

        def note(text: str) -> None:
            if expected is None or expected not in text:
                errors.append(text)

        page.on("console", lambda message: note(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: note(str(error)))
        page.goto(url)
        return page

    yield start
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def shot(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keeps a screenshot as an artefact of the test run: in `make page`, and where WINNOW_TEST_SHOTS names a folder."""

    def take(page: Page, name: str, **options: Any) -> None:
        if not TAKE_SHOTS:
            return
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{name}.png", **({"full_page": True} | options))

    return take


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference that was trained for a moment."""
    from scorer.training.train import train

    folder = tmp_path_factory.mktemp("model")
    texts = [row["text"] for row in real_texts(200)] + [sentence(seed, 40) for seed in range(50)]
    train(lambda: iter(texts), "tiny", 4000, 0, folder / "model", folder / "work", "cpu", lambda *_: None)
    return folder / "model"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real text in two files."""
    rows = real_texts(400)
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "a.jsonl", rows[::2])
    write_jsonl(folder / "b.jsonl", rows[1::2])
    return folder


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("serving")
    started = Serving(folder / "workspace", folder / "log", folder / "exports")
    yield started
    started.close()


@pytest.fixture(scope="session")
def asked(corpus: Path, model: Path) -> dict[str, Any]:
    """A job's request on the real text."""
    return {
        "corpus": {"paths": [str(corpus)], "id_field": "id", "domain_field": "domain"},
        "reference": {"model": str(model)},
        "selections": [{"criterion": c, "rate": r} for c in ("medium", "low", "high") for r in (0.5, 0.25)],
    }


@pytest.fixture(scope="session")
def scored(serving: Serving, asked: dict[str, Any]) -> dict[str, Any]:
    """A job that has succeeded, for tests that only look."""
    job = serving.ended(serving.submit(asked))
    assert job["status"] == "succeeded", job["error"]
    return job


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many shards, so that a job over them can be looked at while it runs."""
    return write_corpus(tmp_path_factory.mktemp("slow"), files=24, documents=8, words=200)


@pytest.fixture(scope="session")
def slow_request(slow: Path, model: Path) -> Callable[[], dict[str, Any]]:
    """Requests over them, each with a setting of its own, so that none finds the scores of another."""
    strides = count(100)
    return lambda: {
        "corpus": {"paths": [str(slow)]},
        "reference": {"model": str(model)},
        "scoring": {"stride": next(strides)},
    }

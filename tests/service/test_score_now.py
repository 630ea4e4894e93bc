"""A few texts, scored now: over real HTTP by real workers, idle or in the middle of a shard; and from the shell."""

import io
import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from scorer.engine.model_loader import ModelLoader
from scorer.errors import BadReference
from service.contract.permissions import Access, Rules
from service.contract.schemas import TEXTS_MAX, JobRequest, ScoreRequest
from service.http.routes import score as route
from service.jobs.jobs import Jobs
from service.work.pool_worker import PoolWorker
from service.work.score_now import find_reference
from tests.forked import StartWorker
from tests.service.api_server import bearer, client, serving
from tests.service.pool import PROSE, until, write_corpus
from tests.service.shell import Ran, Run
from tests.service.test_api import problem
from tests.service.test_worker import BEATS_OFTEN, in_flight, long_corpus

__all__ = ["long_corpus"]
TEXTS = [PROSE, "a token and no more", ""]


@pytest.fixture
def working(worker: PoolWorker) -> Iterator[PoolWorker]:
    """A worker at work in a thread beside."""
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield worker
    worker.worker.stopping = True
    thread.join()


def corpus_scores(reference: Path) -> list[tuple[float, int]]:
    """What a job gives the same texts."""
    from scorer.causal_lm.reference import load
    from scorer.engine.scoring import score

    ((_, nll, n_tokens, *_),) = score(load(reference), [(TEXTS, None)], on_progress=lambda *_: None)
    return list(zip(nll.tolist(), n_tokens.tolist(), strict=True))


@pytest.mark.usefixtures("working")
def test_texts_are_scored_as_a_job_scores_them(api: httpx.Client, reference: Path) -> None:
    answer = api.post("/v1/score", json={"texts": TEXTS, "model": str(reference)})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    for document, (nll, n_tokens) in zip(found["documents"][:2], corpus_scores(reference), strict=False):
        assert document["n_tokens"] == n_tokens
        assert document["nll"] == pytest.approx(nll)
        assert document["perplexity"] == pytest.approx(math.exp(nll / n_tokens))
        assert (document["reject"], document["tokens"]) == (None, None)
    nothing = {
        "n_tokens": None,
        "nll": None,
        "perplexity": None,
        "reject": "empty text",
        "tokens": None,
    }
    assert found["documents"][2] == nothing
    assert found["provenance"]["device"].startswith("cpu")


@pytest.mark.usefixtures("working")
def test_tokens_make_up_the_text_and_its_score(api: httpx.Client, reference: Path) -> None:
    answer = api.post("/v1/score", json={"texts": TEXTS, "model": str(reference), "tokens": True})
    for text, document in zip(TEXTS, answer.json()["documents"], strict=True):
        assert "".join(token["text"] for token in document["tokens"]) == text
        if document["nll"] is not None:
            assert len(document["tokens"]) == document["n_tokens"]
            assert sum(token["nll"] for token in document["tokens"]) == pytest.approx(document["nll"])


def test_by_the_reference_of_a_job(
    api: httpx.Client, pruned: dict[str, Any], working: PoolWorker, reference: Path
) -> None:
    by_job = api.post("/v1/score", json={"texts": TEXTS, "job": pruned["id"]}).json()
    by_model = api.post("/v1/score", json={"texts": TEXTS, "model": str(reference)}).json()
    assert by_job == by_model


def test_between_the_batches_of_a_shard(
    api: httpx.Client,
    jobs: Jobs,
    reference: Path,
    make_request: Callable[..., JobRequest],
    start_worker: StartWorker,
    long_corpus: Path,
) -> None:
    start_worker(**BEATS_OFTEN)
    job, _ = jobs.create(make_request(long_corpus))
    until(lambda: in_flight(jobs, job.id))
    answer = api.post("/v1/score", json={"texts": TEXTS, "model": str(reference)})
    assert answer.status_code == 200, answer.text
    assert jobs.get(job.id).status == "scoring"
    until(lambda: jobs.get(job.id).status == "succeeded")
    assert jobs.get(job.id).progress.shards_done == 2


@pytest.mark.usefixtures("working")
def test_what_cannot_be_scored_is_a_problem(api: httpx.Client, tmp_path: Path) -> None:
    assert (
        "no config.json" in problem(api.post("/v1/score", json={"texts": ["a"], "model": str(tmp_path)}), 422)["detail"]
    )
    assert "job none-such" in problem(api.post("/v1/score", json={"texts": ["a"], "job": "none-such"}), 404)["detail"]


@pytest.mark.usefixtures("working")
def test_the_model_is_one_that_jobs_may_name_and_the_job_the_callers(
    jobs: Jobs, reference: Path, make_request: Callable[..., JobRequest], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "inside").symlink_to(reference)
    alice, bob = bearer(jobs, "submit"), bearer(jobs, "submit")
    job, _ = jobs.create(make_request(), owner=alice["Authorization"].split("_")[1])
    until(lambda: jobs.get(job.id).status == "succeeded")
    with serving(jobs, Rules(model_roots=(str(models),), models={"small": str(reference)})) as url, client(url) as api:

        def ask(headers: dict[str, str], **named: str) -> httpx.Response:
            return api.post("/v1/score", json={"texts": TEXTS, **named}, headers=headers)

        assert "use small" in problem(ask(bob, model=str(reference)), 422)["detail"]
        assert "points outside the model roots" in problem(ask(bob, model=str(models / "inside")), 422)["detail"]
        assert problem(ask(bob, job=job.id), 404)["detail"] == f"there is no job {job.id}"
        by_name, by_job = ask(bob, model="small"), ask(alice, job=job.id)
        assert by_name.status_code == by_job.status_code == 200
        assert by_name.json() == by_job.json()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"texts": []}, "texts"),
        ({"texts": ["a"]}, "either 'model'"),
        ({"texts": ["a"], "model": "x", "job": "y"}, "either 'model'"),
        ({"texts": ["a" * (TEXTS_MAX // 2 + 1)] * 2, "model": "x"}, "submit a job"),
        ({"texts": ["a"] * 65, "model": "x"}, "texts"),
        ({"texts": [1], "model": "x"}, "texts.0"),
        ({"texts": ["a"], "job": "../x"}, "job"),
        ({"texts": ["a"], "model": "x", "wat": 1}, "not a known field"),
    ],
)
def test_what_is_no_request_is_a_problem(api: httpx.Client, body: dict[str, Any], says: str) -> None:
    assert says in problem(api.post("/v1/score", json=body), 422)["detail"]


def test_nobody_there_is_a_problem_and_the_question_is_dropped(
    api: httpx.Client, jobs: Jobs, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "WAIT_SECONDS", 0.2)
    answer = api.post("/v1/score", json={"texts": ["a"], "model": str(reference)})
    assert "no worker answered" in problem(answer, 503)["detail"]
    assert answer.headers["retry-after"]
    assert api.post("/v1/score", json={"texts": ["a"], "model": str(reference)}).status_code == 503
    assert jobs.queue.redis.llen(f"{jobs.queue.prefix}requests") == 1
    assert jobs.score_requests.take() is None


def test_a_job_that_is_not_planned_has_no_reference_yet(jobs: Jobs, make_request: Callable[..., JobRequest]) -> None:
    job, _ = jobs.create(make_request())
    with pytest.raises(BadReference, match="it is there when the job scores"):
        find_reference(jobs.workspace, ScoreRequest(texts=["a"], job=job.id), Access())


def test_too_many_questions_are_a_problem(api: httpx.Client, jobs: Jobs, reference: Path) -> None:
    body = {"texts": ["a"], "model": str(reference)}
    asked = [jobs.score_requests.put(ScoreRequest.model_validate(body), 60) for _ in range(64)]
    assert all(asked)
    assert "too many" in problem(api.post("/v1/score", json=body), 503)["detail"]


def test_a_worker_that_only_plans_leaves_questions_to_others(jobs: Jobs, reference: Path) -> None:
    jobs.score_requests.put(ScoreRequest(texts=["a"], model=str(reference)), 60)
    planner = PoolWorker(jobs, ModelLoader("cpu"), ["light"], "planner")
    assert not planner.once()
    assert jobs.score_requests.take() is not None


def test_a_stopped_worker_ends_whatever_it_was_asked(jobs: Jobs, start_worker: StartWorker, reference: Path) -> None:
    process = start_worker()
    name = jobs.score_requests.put(ScoreRequest(texts=["a"], model=str(reference)), 60)
    until(lambda: jobs.score_requests.answer(name or ""))
    jobs.score_requests.put(ScoreRequest(texts=["word " * 19_000], model=str(reference)), 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_new_worker_is_warm_before_it_takes_a_task(
    jobs: Jobs, worker: PoolWorker, make_request: Callable[..., JobRequest], tmp_path: Path
) -> None:
    job, _ = jobs.create(make_request(write_corpus(tmp_path / "corpus")))
    while jobs.get(job.id).status != "scoring":
        worker.once()
    references = ModelLoader("cpu")
    PoolWorker(jobs, references, ["gpu"], "new").warm_up()
    assert len(references._loaded) == 1
    assert jobs.queue.stats().leased["gpu"] == 0


Shell = Callable[..., Ran]


@pytest.fixture
def shell(run: Run, reference: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs `winnow score -` on a text."""

    def shell(text: str, *arguments: object, model: Path = reference) -> Ran:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return run("score", "-", "--reference", model, "--device", "cpu", *arguments)

    return shell


def test_the_shell_scores_what_it_is_given(shell: Shell, reference: Path) -> None:
    command = [sys.executable, "-m", "service.commands.cli", "score", "-", "--reference", str(reference)]
    command += ["--device", "cpu", "--json"]
    ran = subprocess.run(command, input=PROSE, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (document,) = json.loads(ran.stdout)["documents"]
    assert document["nll"] == pytest.approx(corpus_scores(reference)[0][0])
    lines = shell("".join(json.dumps({"body": text}) + "\n" for text in TEXTS), "--json", "--text-field", "body")
    found = json.loads(lines.out)["documents"]
    assert [document["nll"] is None for document in found] == [False, False, True]
    assert found[0] == document
    one = shell(json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False) + "\n", "--json", "--tokens")
    (document,) = json.loads(one.out)["documents"]
    assert "".join(token["text"] for token in document["tokens"]).startswith("a")


def test_the_shell_shows_tokens_and_a_table(shell: Shell, reference: Path) -> None:
    ran = shell(PROSE, "--tokens")
    assert ran.status == 0, ran.err
    assert "perplexity" in ran.out
    numbers = [float(line.split()[0]) for line in ran.out.splitlines() if line[:8].strip().replace(".", "").isdigit()]
    assert np.isclose(sum(numbers), corpus_scores(reference)[0][0], atol=0.01 * len(numbers))


def test_the_shell_says_what_is_wrong(shell: Shell, tmp_path: Path) -> None:
    assert shell("").status == 1
    broken = shell('{"text": "some words"}\n{"text": 5}\n')
    assert (broken.status, broken.out) == (1, "")
    assert "line 2" in broken.line
    other = shell('{"content": "A text."}')
    assert (other.status, other.out) == (1, "")
    assert "its fields are content: choose one with --text-field" in other.line
    ran = shell("a", model=tmp_path)
    assert (ran.status, ran.out) == (1, "")
    assert "no config.json" in ran.line
    assert shell("a", "--out", tmp_path / "x").status == 2

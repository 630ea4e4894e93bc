"""Ablations over HTTP and from the command line: planted truths, bit-equal repeats, resumed runs, what is refused."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pruner.ablation.compare import Run, RunKey
from pruner.ablation.pool import Pool
from pruner.tables.records import parse_record
from scorer.engine.model_loader import ModelLoader
from service.client import Client, NotSucceeded
from service.commands.cli import main
from service.contract.ablations import AblationOptions, AblationRequest
from service.contract.names import RESOURCES
from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.kinds.ablation_data import sub_pool_share
from service.kinds.ablation_end import fits
from service.store.records import WantedAblation
from service.work import local
from service.work import worker as worker_module
from service.work.worker import Worker
from tests.forked import Forked
from tests.service.pool import WORDS, until
from tests.service.test_prune import nothing

MakeRequest = Callable[..., JobRequest]
REPEATED = ["--preset", "nano", "--tokens", "6000", "--seeds", "2", "--regime", "constrained"]
FIVE_SEEDS = ["--preset", "nano", "--tokens", "8000", "--seeds", "5"]
CHAIN = WORDS[:8]  # few, so that proxies learn their order soon


def chain(draw: random.Random, words: int) -> list[str]:
    """Words that are followed by one of two others, so that their order says something."""
    at, found = draw.randrange(len(CHAIN)), []
    for _ in range(words):
        found.append(CHAIN[at])
        at = (at + draw.choice((1, 3))) % len(CHAIN)
    return found


def write_planted(folder: Path, documents: int = 1_200) -> Path:
    """A corpus of which every second document has its words shuffled, held-out documents, and a task beside it.

    The field `chance` of a document is a random number.
    """
    draw, chance = random.Random(0), random.Random(1)
    folder.mkdir()
    with (folder / "corpus.jsonl").open("w") as file:
        for number in range(documents):
            words = chain(draw, draw.randrange(30, 60))
            if number % 2:
                draw.shuffle(words)
            row = {"text": " ".join(words), "kind": "shuffled" if number % 2 else "clean", "chance": chance.random()}
            file.write(json.dumps(row) + "\n")
    held = [" ".join(chain(draw, 60)) for _ in range(60)]
    (folder / "held.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in held))
    (folder / "tasks").mkdir()
    with (folder / "tasks" / "next.jsonl").open("w") as file:
        for _ in range(30):
            *words, right, _ = chain(draw, 20)
            wrong = next(word for word in CHAIN if word != right)
            file.write(json.dumps({"query": " ".join(words), "choices": [right, wrong], "gold": 0}) + "\n")
    return folder


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("planted") / "corpus")


@pytest.fixture(scope="session")
def results(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of `winnow prune`: the clean half by perplexity, a half by a random field, one with the name of an arm."""
    out = tmp_path_factory.mktemp("pruned") / "out"
    request = JobRequest.model_validate(
        {
            "corpus": {"paths": [str(planted / "corpus.jsonl")], "domain_field": "kind"},
            "reference": {"train": {"preset": "tiny", "tokens": 16_000, "fraction": 0.2}},
            "scores": {"chance": {"field": "chance"}},
            "selections": [
                {"criterion": "low", "rate": 0.5},
                {"criterion": "low", "rate": 0.5, "score": "chance"},
                {"criterion": "low", "rate": 0.25, "name": "random-0.5"},
            ],
        }
    )
    local.prune(request, out, "cpu", nothing)
    return out


def run(*arguments: object) -> int:
    return main(["ablate", *map(str, arguments), "--device", "cpu"])


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "ablation.json").read_text())
    return found


@pytest.mark.usefixtures("fork_not_spawn")
def test_the_clean_half_wins(results: Path, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = ["--heldout", f"clean={planted / 'held.jsonl'}"]
    assert run(results, "--selection", "low-0.5", *held, *FIVE_SEEDS, "--out", tmp_path) == 0
    found = result(tmp_path)
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert set(arms) == {"all", "random-0.5", "low-0.5"}
    assert found["measure"] == "heldout"
    assert found["recommendation"]["selection"] == "low-0.5"
    clean = arms["low-0.5"]
    assert clean["difference"]["high"] < 0
    assert clean["against_random"]["high"] < 0
    assert clean["steps_to_baseline"] > 1
    assert set(clean["heldout"]) == {"all", "clean", "clean (corpus)", "shuffled"}
    assert clean["seeds"] == 5
    assert clean["documents"] == arms["random-0.5"]["documents"]
    assert found["noise"]["arm"] == "random-0.5"
    assert found["noise"]["detectable"] > 0
    runs = pq.read_table(tmp_path / "runs.parquet").to_pylist()
    values = [
        row["bits_per_byte"]
        for row in runs
        if (row["arm"], row["measure"], row["name"], row["share"]) == ("low-0.5", "heldout", "all", 1.0)
    ]
    assert len(values) == 5
    assert sum(values) / 5 == pytest.approx(clean["value"])
    html = (tmp_path / "report.html").read_text()
    assert "low-0.5" in html
    assert "<script" not in html
    shown = capsys.readouterr()
    assert "15 runs" in shown.err  # the estimate
    assert found["recommendation"]["text"].split(":")[0] in shown.out


@pytest.mark.usefixtures("fork_not_spawn")
def test_a_half_by_a_random_field_does_not_win_and_a_killed_ablation_gives_the_same_bytes(
    results: Path, planted: Path, tmp_path: Path
) -> None:
    given = [results, "--selection", "low-0.5-chance", *REPEATED, "--tasks", planted / "tasks"]
    assert run(*given, "--out", tmp_path / "whole") == 0
    found = result(tmp_path / "whole")
    passes = {arm["name"]: arm["passes"] for arm in found["arms"]}
    assert passes["all"] == pytest.approx(2, rel=0.25)  # a sub-pool of 68 documents or so
    assert passes["low-0.5-chance"] == pytest.approx(4, rel=0.25)
    assert found["measure"] == "tasks"
    assert found["recommendation"]["selection"] is None
    assert found["settings"]["questions"] == 30
    assert found["settings"]["heldout_documents"] > 0
    task = found["arms"][0]["tasks"]["next"]

    assert task["chance"] == 0.5
    assert task["overlap"] > 0  # of 19 words, which the corpus has in the same order here and there
    (key,) = [path for path in (results / ".winnow" / "ablation").iterdir() if path.name == found["key"]]
    for path in key.glob("runs/*"):
        path.unlink()
    (key / "ablation.json").unlink()
    command = ["ablate", *map(str, given), "--device", "cpu", "--out", str(tmp_path / "again")]
    killed = Forked(main, command, env=os.environ)
    until(lambda: list(key.glob("runs/*.parquet")) or killed.poll() is not None)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "again" / "ablation.json").exists()
    assert run(*given, "--out", tmp_path / "again") == 0
    for name in ("ablation.json", "runs.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def spawned(parent: int) -> list[int]:
    """The processes that `multiprocessing` has started for another one."""
    children = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def ignored_signals(process: int) -> int:
    """The mask of the signals that a process ignores."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))


def test_ctrl_c_ends_an_ablation_and_its_helpers_quietly(results: Path, planted: Path, tmp_path: Path) -> None:
    # A shell ignores Ctrl-C for background jobs, and this test may be one: the command is to have it as at a terminal.
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start += "; from service.commands.cli import main; sys.exit(main())"
    options = ["--selection", "low-0.5", "--tokens", "400_000", "--seeds", "1", "--device", "cpu"]
    given = [str(results), *options, "--out", str(tmp_path)]
    command = [sys.executable, "-c", start, "ablate", *given]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    alone = len(os.sched_getaffinity(0)) == 1
    for helper in [] if alone else until(lambda: spawned(process.pid) or process.poll() is not None):
        assert ignored_signals(helper) >> (signal.SIGINT - 1) & 1
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_wrong_arguments_and_missing_inputs(
    results: Path, planted: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (["--seeds", "0"], ["--heldout", "nothing"], ["--selection", "all"], ["--repetitions", "2"]):
        with pytest.raises(SystemExit) as ended:
            run(results, *(wrong if "--selection" in wrong else ["--selection", "low-0.5", *wrong]), "--out", tmp_path)
        assert ended.value.code == 2
    assert run(results, "--selection", "high-0.1", "--out", tmp_path) == 1
    assert "low-0.5" in capsys.readouterr().err
    assert run(results, "--selection", "random-0.5", "--out", tmp_path) == 1
    assert "random-0.5 has the name of another arm" in capsys.readouterr().err
    assert run(tmp_path, "--selection", "low-0.5", "--out", tmp_path) == 1
    request = JobRequest.model_validate(
        {"corpus": {"paths": [str(planted / "held.jsonl")]}, "reference": {"model": str(reference)}}
    )
    local.prune(request, tmp_path / "named", "cpu", nothing)
    with pytest.raises(SystemExit) as ended:  # a named reference has no split
        run(tmp_path / "named", "--selection", "medium-0.5", "--out", tmp_path)
    assert ended.value.code == 2
    assert "--heldout" in capsys.readouterr().err


def test_the_service_makes_ablations_beside_the_job(
    jobs: Jobs,
    work_off: Callable[[], None],
    make_request: MakeRequest,
    planted: Path,
    api: httpx.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job, _ = jobs.create(make_request(planted / "corpus.jsonl", corpus={"paths": [str(planted / "corpus.jsonl")]}))
    work_off()
    path = f"/v1/jobs/{job.id}/ablations"
    body: dict[str, Any] = {"selection": ["medium-0.5"], "preset": "nano", "tokens": 2_000, "seeds": 1}
    refused = api.post(path, json=body)
    assert refused.status_code == 422
    assert "--heldout" in refused.json()["detail"]
    command = [
        "ablate",
        job.id,
        "--server",
        str(api.base_url),
        "--selection",
        "medium-0.5",
        "--out",
        str(tmp_path / "a"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert api.get(f"{path}/nothing").status_code == 404
    assert api.post(path, json=body | {"selection": ["low-0.9"]}).status_code == 404
    body["heldout"] = {"clean": str(planted / "held.jsonl")}
    made = api.post(path, json=body)
    assert made.status_code == 202
    address = made.headers["Location"]
    assert made.json()["status"] == "queued"
    work_off()
    found = api.get(address).json()
    assert found["status"] == "succeeded"
    assert found["progress"]["runs_done"] == found["progress"]["runs_total"] == 3
    assert found["result"]["recommendation"]["selection"] is None  # one seed shows nothing
    (warning,) = found["result"]["warnings"]
    assert "of 1,200 documents" in warning
    assert "raise --tokens" in warning  # the corpus has more documents
    assert jobs.get(job.id).status == "succeeded"
    assert found["id"] in [each["id"] for each in api.get(path).json()["data"]]
    assert api.get(f"{address}/runs.parquet").status_code == 200
    monkeypatch.setattr("service.kinds.ablation_data._SEEDS_MAX", 2)
    budgeted = api.post(path, json=body | {"budget": 1_000}).headers["Location"]
    work_off()
    found_more = api.get(budgeted).json()
    assert found_more["status"] == "succeeded"
    assert found_more["progress"]["runs_total"] == 3 + 6 + 3  # other learning rates, and a seed more
    checks = found_more["result"]["learning_rates"]
    assert {(check["arm"], check["factor"]) for check in checks} == {
        (arm, factor) for arm in ("all", "random-0.5", "medium-0.5") for factor in (1 / 4, 1 / 16)
    }
    assert {arm["seeds"] for arm in found_more["result"]["arms"]} == {2}
    short = api.post(path, json=body | {"budget": 1e-6}).headers["Location"]
    work_off()
    found_less = api.get(short).json()
    assert found_less["progress"]["runs_total"] == 3
    assert "raise --budget" in found_less["result"]["warnings"][-1]
    missing = api.post(path, json=body | {"heldout": {"clean": str(planted / "tasks" / "next.jsonl")}})
    work_off()
    failed = api.get(missing.headers["Location"]).json()
    assert failed["status"] == "failed"
    assert "text" in failed["error"]["detail"]
    assert f"job {job.id}: ablation/{failed['id']}/plan:0 failed: " in caplog.text  # the job itself has succeeded
    page = api.get(f"/jobs/{job.id}").text
    assert page.index(f'id="ablation-{found["id"]}"') < page.index(f'id="ablation-{failed["id"]}"')
    assert api.get(f"/jobs/{job.id}/ablations/{found['id']}/report.html").status_code == 200


def test_a_cancelled_ablation_ends_its_run_and_goes_on_when_it_is_asked_for_again(
    jobs: Jobs,
    pruned: dict[str, Any],
    planted: Path,
    api: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "_BETWEEN_SECONDS", 0.0)  # a look after each step of training
    path = f"/v1/jobs/{pruned['id']}/ablations"
    held = {"clean": str(planted / "held.jsonl")}
    body = {"selection": ["medium-0.5"], "preset": "nano", "tokens": 2_000, "seeds": 1, "heldout": held}
    address = api.post(path, json=body).headers["Location"]
    cancel, under_way = f"{address}/cancel", ""

    def look() -> None:
        """Between two steps of the second run: the ablation is cancelled, and the worker's heartbeat is due."""
        runs = [beat for beat in worker.heartbeat.held if "/runs-" in beat.lease.task and beat.note("cpu").tokens]
        if runs and under_way:
            assert api.post(cancel).json()["status"] == "cancelled"
            worker.heartbeat.renew(runs[0])

    worker = Worker(jobs.lifecycle, ModelLoader("cpu"), RESOURCES, "here", between=look)
    while api.get(address).json()["progress"]["runs_done"] < 1:
        assert worker.once()
    assert api.get(address).json()["status"] == "running"
    under_way = "the second run"
    while worker.once():
        pass
    found = api.post(cancel)
    assert (found.status_code, found.json()["status"], found.json()["error"]) == (200, "cancelled", None)
    assert found.json() == api.get(address).json() == api.get(path).json()["data"][0]
    assert found.json()["progress"]["runs_done"] == 1
    assert jobs.get(pruned["id"]).status == "succeeded"
    with Client(str(api.base_url)) as client, pytest.raises(NotSucceeded, match="the ablation was cancelled"):
        client.wait_for_ablation(pruned["id"], found.json()["id"])
    page = api.get(f"/jobs/{pruned['id']}").text
    assert "The ablation was cancelled." in page
    assert "Its finished runs are kept" in page
    assert "1 seed, chinchilla, 2,000 tokens a run" in page

    under_way = ""
    again = api.post(path, json=body)
    assert again.headers["Location"] == address
    assert (again.json()["status"], again.json()["progress"]["runs_done"]) == ("queued", 1)
    while worker.once():
        pass
    assert api.get(address).json()["status"] == "succeeded"
    refused = api.post(cancel)
    assert refused.status_code == 409
    assert "succeeded already" in refused.json()["detail"]
    assert api.post(f"{path}/nothing/cancel").status_code == 404


def test_a_queued_ablation_is_cancelled_on_the_page(
    jobs: Jobs, pruned: dict[str, Any], planted: Path, api: httpx.Client, work_off: Callable[[], None]
) -> None:
    with Client(str(api.base_url)) as client:
        made = client.create_ablation(
            pruned["id"], {"selection": ["medium-0.5"], "heldout": {"clean": str(planted / "held.jsonl")}}
        )
        page = f"/jobs/{pruned['id']}/ablations/{made.id}"
        assert f'action="{page}/cancel"' in api.get(f"/jobs/{pruned['id']}").text
        assert api.post(f"{page}/cancel", headers={"Origin": str(api.base_url).rstrip("/")}).status_code == 303
        work_off()
        assert jobs.queue.stats().pending == {"light": 0, "gpu": 0}
        assert client.cancel_ablation(pruned["id"], made.id) == client.get_ablation(pruned["id"], made.id)
        assert client.get_ablation(pruned["id"], made.id).status == "cancelled"


def test_a_budget_is_for_the_runs_after_the_first_ones() -> None:
    first = [RunKey("all", 0), RunKey("low-0.5", 0)]
    nothing_measured = np.zeros((3, 0))
    runs = {key: Run(nothing_measured, nothing_measured > 0, (1, 2, 3), 1, 1.0, seconds=600.0) for key in first}
    assert fits(runs, first, 2, minutes=20)
    assert not fits(runs, first, 3, minutes=20)
    assert not fits(runs, first[:1], 2, minutes=20)  # the other run was a further one


def test_options_are_read_as_they_are_written_in_json() -> None:
    options = AblationOptions.model_validate(
        {"selection": "low-0.5", "target_parameters": 1e9, "heldout": ["a=/x=y.jsonl"], "regime": "overtrained"}
    )
    assert options.heldout == {"a": "/x=y.jsonl"}
    assert options.aim == 100 * 10**9


@pytest.mark.parametrize(
    ("given", "tokens", "share", "warning"),
    [
        ({}, 50_000, 1, ""),
        ({}, 1_000_000, 1, "10.0 times"),
        ({"regime": "constrained"}, 50_000, 0.25, ""),  # 50,000 tokens are two repetitions of 25,000
        ({"regime": "constrained", "repetitions": 0.25}, 50_000, 1, "0.5 times, not 0.25"),
        ({"target_tokens": 500_000}, 50_000, 0.1, ""),
        ({"target_tokens": 20_000}, 50_000, 1, "less often"),
        ({"target_parameters": 5_000, "regime": "overtrained"}, 50_000, 0.1, ""),
    ],
)
def test_the_sub_pool_gives_proxies_the_passes_of_the_target(
    given: dict[str, Any], tokens: int, share: float, warning: str
) -> None:
    rows = np.arange(1_000)
    corpus = Pool(rows * 0, rows, np.full(1_000, 400), tokens=100_000)
    options = AblationOptions.model_validate({"selection": ["a"], **given})
    found, warnings = sub_pool_share(options, tokens, corpus, corpus.bytes_per_token)
    assert found == pytest.approx(share)
    assert len(warnings) == bool(warning)
    assert warning in "".join(warnings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"heldout": ["a=x", "a=y"]}, "two held-out files have the name 'a'"),
        ({"heldout": ["=x"]}, "NAME=PATH"),
        ({"heldout": ["a="]}, "NAME=PATH"),
        ({"repetitions": 3}, "for the regime constrained"),
        ({"repetitions": 2}, "for the regime constrained"),  # the default is said too where it would do nothing
        ({"repetitions": 3, "regime": "constrained", "target_tokens": 10**9}, "either a target or repetitions"),
        ({"repetitions": 2, "regime": "constrained", "target_parameters": 10**9}, "either a target or repetitions"),
        ({"budget": float("nan")}, "budget"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AblationRequest.model_validate({"selection": ["low-0.5"], **given})


@pytest.mark.parametrize("given", [{}, {"target_tokens": 10**9}, {"regime": "constrained", "repetitions": 2}])
def test_options_as_returned_can_be_sent_again(given: dict[str, Any]) -> None:
    options = AblationRequest.model_validate({"selection": ["low-0.5"], **given})
    assert AblationRequest.model_validate_json(options.model_dump_json()) == options


def test_an_ablation_that_was_stored_with_idle_repetitions_is_read() -> None:
    options = {"selection": ["low-0.5"], "repetitions": 2.0, "target_tokens": 10**9}
    stored = {"format": 1, "specs": [], "options": options, "files": ""}
    assert parse_record(json.dumps(stored).encode(), WantedAblation, "ablation.json").options.repetitions == 2

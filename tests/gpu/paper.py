"""The experiment of "Perplexed by Perplexity" (arXiv:2405.20541), small, through the service on all GPUs of this host.

A job whose reference `4m` is trained on a fifth of the corpus, then ablations of its selections: `124m` at a rate of
0.5, with one seed; `10m` with three seeds at 0.25, 0.5 and 0.75; `10m` where data repeats, and with two and a half
times the tokens. Held-out text is a file of the same kind, by domain. The data of an ablation is prepared while the
last runs of the one before go on. `--out` gets two files for each that ends, STAGE.json (its result, and the seconds of
each run) and STAGE-runs.parquet, and at `--until` unfinished.tar, the runs of those that have not ended: few files,
since a machine may give back only some.
"""
# ruff: noqa: E402  (tune_process comes before torch)

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from scorer.process import tune_process

tune_process()  # before torch is imported, as a worker does

# isort: split
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pruner.ablation.result import AblationResult, ArmResult
from scorer.training.evaluation import Text
from scorer.training.names import Preset
from scorer.training.presets import RECIPES
from scorer.training.proxy import ProxySpec, train_proxy
from service.contract.ablations import Ablation
from service.contract.schemas import Job
from service.kinds.ablation_plan import ITEMS, PLAN
from tests.gpu.several import CRITERIA, DEVICE, GPUS, Enough, Service, say, service

FRACTION = 0.2  # of the documents, that train the reference
RATES = (0.25, 0.5, 0.75)
PASSES = 1.52  # of a 124m run over half of the documents: above 1.5, where `all` gets its A/A partner
TARGET_TOKENS = 18_000_000  # of a run of the target, about: the size of its steps is compiled ahead
DOMAINS = 20  # held-out files at most
RUNS_LEFT = 1  # for each worker: all are under way, so that no run of the next ablation is claimed before them
POLL_SECONDS = 1.0
STARTED: float = psutil.Process().create_time()


class Stage(NamedTuple):
    """An ablation. `tokens` is None where PASSES says them."""

    name: str
    is_target: bool
    tokens: int | None
    seeds: int
    rates: tuple[float, ...]
    options: dict[str, Any]


STAGES = (
    Stage("target", True, None, 1, (0.5,), {}),
    Stage("rates", False, 10_100_000, 3, RATES, {}),
    Stage("constrained", False, 10_100_000, 3, (0.5,), {"regime": "constrained", "repetitions": 4}),
    Stage("overtrained", False, 25_250_000, 3, (0.5,), {"regime": "overtrained"}),
)


class Flight(NamedTuple):
    """An ablation that is under way."""

    stage: Stage
    id: str
    times: dict[str, float]  # seconds since the start of this process


def now() -> float:
    """Seconds since the start of this process."""
    return round(time.time() - STARTED, 1)


def compile_ahead(preset: Preset, tokens: int, gpu: int) -> None:
    """Compiles a proxy for micro-batches of the shape that it will have, into the caches on the disk."""
    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    rows = RECIPES[preset].vocabulary
    spec = ProxySpec(preset, "adamw", tokens, tokens, rows, start=0, seed=0)
    sample = np.random.default_rng(0).integers(1, rows, 100_000).astype(np.uint16)

    def end(taken: int) -> None:
        if taken:
            raise Enough

    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        sample.tofile(Path(folder) / "tokens.bin")
        train_proxy(spec, [Text(sample[:100], 99)], (1.0,), Path(folder), "cuda", end)


def split_by_domain(path: str, folder: Path) -> dict[str, str]:
    """The documents of a Parquet file as JSON lines, a file for each of its most frequent domains."""
    table = pq.read_table(path, columns=["text", "domain"])
    counts = sorted(table["domain"].drop_null().value_counts().to_pylist(), key=lambda each: -each["counts"])
    files = {}
    for name in sorted(each["values"] for each in counts[:DOMAINS]):
        texts = table.filter(pc.equal(table["domain"], pa.scalar(name)))["text"].to_pylist()
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts if text))
        files[name] = str(file)
    return files


def make_job(served: Service, given: argparse.Namespace, out: Path) -> Job:
    """The job, and its report in the folder of results."""
    train = {"preset": given.reference, "tokens": given.reference_tokens, "fraction": FRACTION}
    body = {
        "corpus": {"paths": [str(Path(path).absolute()) for path in given.corpus]}
        | {"id_field": "id", "domain_field": "domain"},
        "reference": {"train": train},
        "selections": [{"criterion": name, "rate": rate} for rate in RATES for name in CRITERIA],
    }
    job = served.client.wait_for_job(served.client.create_job(body).id)
    served.client.download_report(job.id, out / "report.json")
    (out / "job.json").write_text(job.model_dump_json(indent=1) + "\n")
    return job


def begin(served: Service, job: Job, stage: Stage, given: argparse.Namespace, heldout: dict[str, str]) -> Flight:
    """Asks for the ablation of a stage."""
    half = sum(made.tokens for made in job.selections if made.id in ("low-0.5", "high-0.5")) / 2
    tokens = round(PASSES * half) if stage.tokens is None else round(given.scale * stage.tokens)
    options = {
        "selection": [f"{name}-{rate:g}" for rate in stage.rates for name in CRITERIA],
        "preset": given.target if stage.is_target else given.proxy,
        "tokens": tokens,
        "seeds": stage.seeds,
        "heldout": heldout,
        "tasks": [] if given.tasks is None else [str(Path(given.tasks).absolute())],
    }
    made = served.client.create_ablation(job.id, options | stage.options)
    say(f"{now():5.0f} s  {stage.name}: {tokens:,} tokens a run of {options['preset']}")
    return Flight(stage, made.id, {"began": now()})


def save(served: Service, job: Job, flight: Flight, made: Ablation, out: Path) -> None:
    """The result of an ablation and how long each of its runs took, in one file, and its table of runs."""
    name = flight.stage.name
    flight.times["ended"] = now()
    about: dict[str, Any] = {"times": flight.times}
    if made.result is None:
        about["error"] = None if made.error is None else made.error.model_dump()
        say(f"{now():5.0f} s  {name}: {made.status}: {made.error and made.error.detail}")
    else:
        served.client.download_ablation_runs(job.id, made.id, out / f"{name}-runs.parquet")
        about["runs"] = run_times(served.workspace / "ablation" / made.result.key)
        about["result"] = made.result.model_dump()
        show(name, made.result, about["runs"])
    (out / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")


def run_times(folder: Path) -> list[dict[str, Any]]:
    """How long each run took, and when it ended, by the name of its file: number of the arm, seed, rate's factor."""
    return [
        {"run": path.stem, "seconds": json.loads(path.read_text())["seconds"], "ended": path.stat().st_mtime - STARTED}
        for path in sorted((folder / "runs").glob("*.json"))
    ]


def save_unfinished(served: Service, out: Path) -> None:
    """What there is of ablations that have no result, in one file: plan, items and losses of the runs that ended."""
    with tarfile.open(out / "unfinished.tar", "w") as archive:
        for folder in sorted((served.workspace / "ablation").glob("*")):
            if not (folder / "ablation.json").exists() and (folder / PLAN).exists():
                for path in (folder / PLAN, folder / ITEMS, *sorted((folder / "runs").glob("*.*"))):
                    archive.add(path, f"{folder.name}/{path.relative_to(folder)}")
                say(f"{now():5.0f} s  unfinished: {len(run_times(folder))} runs of {folder.name}")


def take_over(archive: Path, workspace: Path) -> str | None:
    """Puts the runs of an earlier call beside a plan that is being made, so that they are not made again.

    Returns the earlier plan, or None while there is no folder.
    """
    for folder in (workspace / "ablation").glob("*"):
        if not (folder / PLAN).exists():
            with tarfile.open(archive) as given, tempfile.TemporaryDirectory() as made:
                given.extractall(made, filter="data")
                (earlier,) = Path(made).iterdir()
                shutil.copytree(earlier / "runs", folder / "runs", dirs_exist_ok=True)
                return (earlier / PLAN).read_text()
    return None


def show(name: str, result: AblationResult, runs: Sequence[dict[str, Any]]) -> None:
    """A row for each arm."""
    seconds = [run["seconds"] for run in runs]
    say(f"{now():5.0f} s  {name}: {len(runs)} runs of {np.median(seconds):.1f} s (median), {sum(seconds):.0f} s in all")
    noise = result.noise
    say(f"  {result.measure}; {noise.arm} {noise.difference.value:+.4f}; detectable {noise.detectable}")
    for arm in result.arms:
        say(f"  {row(arm)}")
    say(f"  {result.recommendation.text}")


def row(arm: ArmResult) -> str:
    """Passes, measure, difference to `all` with its interval, held-out text, steps to baseline."""
    found = arm.difference
    ends = "" if found.low is None or found.high is None else f" [{found.low:+.4f}, {found.high:+.4f}]"
    steps = "-" if arm.steps_to_baseline is None else f"{arm.steps_to_baseline:.2f}"
    return (
        f"{arm.name:12} {arm.passes:5.2f} passes  {arm.value:.4f} {found.value:+.4f}{ends}  "
        f"held-out {arm.heldout['all']:.4f}  steps {steps}"
    )


def ablate(
    served: Service, job: Job, stages: Sequence[Stage], given: argparse.Namespace, heldout: dict[str, str], out: Path
) -> None:
    """All ablations, until the time given."""
    waiting, flying, left = list(stages), list[Flight](), 0
    plan = None if given.resume else ""
    while (waiting or flying) and now() < given.until:
        if waiting and left <= RUNS_LEFT * given.workers:
            flying.append(begin(served, job, waiting.pop(0), given, heldout))
        left = 0
        for flight in list(flying):
            made = served.client.get_ablation(job.id, flight.id)
            if made.status not in ("queued", "running"):
                save(served, job, flight, made, out)
                flying.remove(flight)
            elif made.progress.runs_total is None:
                left = sys.maxsize
            else:
                flight.times.setdefault("planned", now())
                left += made.progress.runs_total - made.progress.runs_done
        if plan is None and flying:
            plan = take_over(given.resume, served.workspace)
        time.sleep(POLL_SECONDS)
    if plan and plan not in [path.read_text() for path in (served.workspace / "ablation").glob(f"*/{PLAN}")]:
        sys.exit("--resume: the earlier call had another plan, so its runs do not belong to this ablation")
    if flying:
        save_unfinished(served, out)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="+", required=True, metavar="PARQUET", help="with text, id and domain")
    parser.add_argument("--heldout", required=True, metavar="PARQUET", help="with text and domain")
    parser.add_argument("--tasks", metavar="DIR")
    parser.add_argument("--out", required=True, type=Path, help="folder of the results")
    parser.add_argument("--until", type=float, default=560.0, help="seconds after which it ends (default: 560)")
    parser.add_argument("--stages", nargs="+", default=[stage.name for stage in STAGES])
    parser.add_argument("--resume", type=Path, metavar="TAR", help="unfinished.tar with the one ablation of --stages")
    parser.add_argument("--workers", type=int, default=2 * max(1, GPUS), help="default: two for each GPU")
    parser.add_argument("--reference", default="4m")
    parser.add_argument("--reference-tokens", type=int, default=40_000_000)
    parser.add_argument("--target", default="124m")
    parser.add_argument("--proxy", default="10m")
    parser.add_argument("--scale", type=float, default=1.0, help="of the proxies' tokens, for a dry run on a CPU")
    given = parser.parse_args(arguments)
    stages = [stage for stage in STAGES if stage.name in given.stages]
    given.out.mkdir(parents=True, exist_ok=True)
    ahead = []
    if DEVICE == "cuda":
        context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
        shapes = {(given.target if stage.is_target else given.proxy, stage.tokens or TARGET_TOKENS) for stage in stages}
        for number, (preset, tokens) in enumerate(sorted(shapes)):
            ahead.append(context.Process(target=compile_ahead, args=(preset, tokens, number % GPUS)))
            ahead[-1].start()
    with tempfile.TemporaryDirectory() as folder, service(given.workers) as served:
        heldout = split_by_domain(given.heldout, Path(folder))
        say(f"{now():5.0f} s  the service runs; held out: {', '.join(heldout)}")
        job = make_job(served, given, given.out)
        say(f"{now():5.0f} s  the job has ended: {job.reference}")
        for process in ahead:
            process.join()
        say(f"{now():5.0f} s  compiled")
        ablate(served, job, stages, given, heldout, given.out)
    say(f"{now():5.0f} s  the end")


if __name__ == "__main__":
    main()

"""Several GPUs of one host: scoring by 1 to all of them, a training that they share, an ablation spread over them.

`scoring`: `winnow serve` with its own Redis; a job over the corpus, repeated `--copies` times, by a reference of GPT-2
small's shape with random weights, whose tokenizer is learned or given. Tokens a second from a fifth of the job on, when
all workers have loaded; manifests are compared byte for byte; in the last run a worker is killed on the way.
`training`: tokens a second in steps of 64 x 1,024, and the held-out loss after `--tokens`.
`ablation`: a job whose reference is trained on the corpus, then an ablation of its selections at `--rate`.
Without a GPU the workers run on the CPU: a dry run.
"""
# ruff: noqa: E402  (tune_process comes before torch)

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from scorer.process import tune_process

tune_process()  # before torch is imported, as a worker does

# isort: split
import psutil
import pyarrow.parquet as pq
import torch

from scorer.training.train import train
from service.client import Client
from service.contract.names import ENDED
from tests.gpu.references import make_reference

GPUS = torch.cuda.device_count()
DEVICE = "cuda" if GPUS else "cpu"
COMMAND = [sys.executable, "-c", "from service.commands.cli import main; raise SystemExit(main())"]
CRITERIA = ("low", "medium", "high")
POLL_SECONDS = 0.25
KILL_AT = 0.4  # of the documents
STEADY = 0.2, 0.95  # of the documents: between these the speed is measured


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Service(NamedTuple):
    """A service that runs, and its client."""

    process: psutil.Process
    url: str
    client: Client
    workspace: Path

    def workers(self) -> list[psutil.Process]:
        """The worker processes that score."""
        found = [(child, " ".join(child.cmdline())) for child in self.process.children(recursive=True)]
        return [child for child, line in found if "worker_process" in line and "light" not in line]

    def cpu_seconds(self) -> float:
        """CPU seconds of all its processes that live."""
        return sum(sum(child.cpu_times()[:2]) for child in [self.process, *self.process.children(recursive=True)])

    def gibibytes(self) -> float:
        """Resident memory of all its processes."""
        every = [self.process, *self.process.children(recursive=True)]
        return sum(child.memory_info().rss for child in every) / 2**30


@contextmanager
def service(workers: int, model: Path | None = None) -> Iterator[Service]:
    """`winnow serve` with so many workers and an empty workspace."""
    folder = tempfile.mkdtemp()
    models = [] if model is None else ["--model", f"reference={model}"]
    serve = ["serve", "--workspace", f"{folder}/workspace", "--port", "0", "--workers", str(workers)]
    process = subprocess.Popen([*COMMAND, *serve, "--device", DEVICE, *models], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if " at " not in line:
            raise SystemExit("the service did not start")
        url = line.split(" at ")[1].strip()
        with Client(url) as client:
            yield Service(psutil.Process(process.pid), url, client, Path(folder) / "workspace")
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder)


class Sample(NamedTuple):
    """A moment of a job."""

    seconds: float
    done: float  # share of the documents
    tokens: int
    cpu_seconds: float
    gibibytes: float
    gpus: list[int]  # utilisation of each, percent, by the driver


class Scored(NamedTuple):
    """A job that has ended."""

    rate: float  # tokens a second
    manifests: dict[str, str]  # digest by selection
    row: str


def score_job(workers: int, corpus: Path, model: Path, kill: bool) -> Scored:
    """One job on a fresh service."""
    with service(workers, model) as served, tempfile.TemporaryDirectory() as out:
        selections = [{"criterion": name, "rate": 0.5} for name in CRITERIA]
        request = {"corpus": {"paths": [str(corpus)], "id_field": "id"}, "selections": selections}
        job = served.client.create_job(request | {"reference": {"model": "reference"}})
        samples: list[Sample] = []
        killed = False
        while job.status not in ENDED:
            time.sleep(POLL_SECONDS)
            job = served.client.get_job(job.id)
            progress = job.progress
            done = progress.documents_done / (progress.documents_total or 1)
            gpus = [torch.cuda.utilization(number) for number in range(GPUS)]
            now, cpu, memory = time.monotonic(), served.cpu_seconds(), served.gibibytes()
            samples.append(Sample(now, done, progress.tokens_done, cpu, memory, gpus))
            if kill and not killed and done > KILL_AT:
                served.workers()[-1].kill()
                killed = True
        served.client.wait_for_job(job.id)  # raises if it has failed
        digests = {}
        for made in job.selections:
            target = Path(out) / made.id
            served.client.download_manifest(job.id, made.id, target)
            digests[made.id] = hashlib.sha256(target.read_bytes()).hexdigest()
    steady = [sample for sample in samples if STEADY[0] < sample.done <= STEADY[1]]
    if len(steady) < 2:
        raise SystemExit("the job was too short to be measured: give more copies")
    first, last = steady[0], steady[-1]
    seconds = last.seconds - first.seconds
    rate = (last.tokens - first.tokens) / seconds
    cores = (last.cpu_seconds - first.cpu_seconds) / seconds
    busy = sorted(
        (sum(of_one) / len(steady) for of_one in zip(*(each.gpus for each in steady), strict=True)), reverse=True
    )
    row = f"{rate / 1e6:7.3f} M tokens/s over {seconds:5.1f} s   {last.gibibytes:5.1f} GiB"
    row += f"   GPUs {' '.join(f'{share:.0f}%' for share in busy)}"
    return Scored(rate, digests, row + ("   a worker killed" if killed else f"   {cores:4.1f} cores"))


def scoring(given: argparse.Namespace) -> None:
    """A row for each number of workers, and one with a worker that is killed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = folder / "tokenizer.json"
        if given.tokenizer:
            shutil.copy(given.tokenizer, tokenizer)
        model = make_reference(given.preset, folder / "model", tokenizer)
        corpus = folder / "corpus"
        corpus.mkdir()
        for copy in range(given.copies):
            for path in given.corpus:
                (corpus / f"{copy:03}-{Path(path).name}").symlink_to(Path(path).absolute())
        counts = [count for count in (8, 4, 2, 1) if count <= max(GPUS, given.workers)]
        found = {}
        for count in counts:
            found[count] = score_job(count, corpus, model, kill=False)
            say(f"{count} workers: {found[count].row}")
        killed = score_job(counts[0], corpus, model, kill=True)
        say(f"{counts[0]} workers: {killed.row}")
        for count in counts[:-1]:
            say(f"{count} workers: {found[count].rate / found[1].rate / count:.1%} of linear")
        same = all(other.manifests == found[1].manifests for other in [killed, *found.values()])
        say("manifests: the same bytes in all runs" if same else "MANIFESTS DIFFER")
        if not same:
            raise SystemExit(1)


class Enough(Exception):
    """Ends a training that is only timed."""


def timed(seconds: float) -> tuple[Callable[[int, int, float | None, float | None], None], list[tuple[float, int]]]:
    """A listener that ends the training some seconds after its tenth step, and the times that it has noted."""
    noted: list[tuple[float, int]] = []

    def listen(done: int, _total: int, loss: float | None, _heldout: float | None) -> None:
        if loss is not None and done >= 10 * 64 * 1024:
            noted.append((time.monotonic(), done))
            if noted[-1][0] - noted[0][0] > seconds:
                raise Enough

    return listen, noted


def training(given: argparse.Namespace) -> None:
    """A row for each number of GPUs."""
    texts = [
        text for path in given.corpus for text in pq.read_table(path, columns=["text"])["text"].to_pylist() if text
    ]
    rates: dict[int, float] = {}
    for count in [count for count in (1, 2, 4, 8) if count <= max(GPUS, given.workers)]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)

            def run(tokens: int, listen: Any, work: Path, folder: Path = folder, count: int = count) -> Any:
                said = listen or (lambda *_: None)
                return train(
                    lambda: iter(texts), given.preset, tokens, 0, folder / "model", work, DEVICE, said, processes=count
                )

            heldout = run(given.tokens, None, folder / "work").heldout_bits_per_byte
            (folder / "work" / "checkpoint.safetensors").unlink(missing_ok=True)
            row = f"{count} GPUs: {heldout:.4f} held-out bits/byte after {given.tokens:,} tokens"
            if GPUS:
                listen, noted = timed(given.seconds)
                long = folder / "long"
                long.mkdir()
                shutil.copy(folder / "work" / "tokenizer.json", long)
                try:
                    run(300_000_000, listen, long)
                except Enough:
                    rates[count] = (noted[-1][1] - noted[0][1]) / (noted[-1][0] - noted[0][0])
                    share = rates[count] / rates[1] / count
                    row += f"; {rates[count] / 1e6:.3f} M tokens/s in longer trainings, {share:.1%} of linear"
            say(row)
            torch.compiler.reset()
    in_a_service(given)


def in_a_service(given: argparse.Namespace) -> None:
    """A job whose reference trains on the GPUs that its host's workers leave idle."""
    with service(max(GPUS, given.workers)) as served:
        reference = {"train": {"preset": given.preset, "tokens": given.service_tokens, "fraction": 0.7}}
        paths = [str(Path(path).absolute()) for path in given.corpus]
        started = time.monotonic()
        job = served.client.create_job({"corpus": {"paths": paths}, "reference": reference})
        about = served.client.wait_for_job(job.id).reference
        assert about is not None
        say(
            f"a job on {max(GPUS, given.workers)} workers: trained by {about.processes} processes to "
            f"{about.heldout_bits_per_byte or 0:.4f} bits/byte, ended after {time.monotonic() - started:.0f} s"
        )


def ablation(given: argparse.Namespace) -> None:
    """The result, and how long it took beside its runs one after the other."""
    with service(max(GPUS, given.workers)) as served:
        fields = {"id_field": "id", "domain_field": "domain"} if given.domains else {}
        reference = {"train": {"preset": given.reference, "tokens": given.reference_tokens}}
        selections = [{"criterion": name, "rate": given.rate} for name in CRITERIA]
        paths = [str(Path(path).absolute()) for path in given.corpus]
        started = time.monotonic()
        body = {"corpus": {"paths": paths} | fields, "reference": reference, "selections": selections}
        job = served.client.create_job(body)
        served.client.wait_for_job(job.id)
        say(f"the job: {time.monotonic() - started:.0f} s")
        started = time.monotonic()
        options = ["--preset", given.preset, "--tokens", str(given.tokens), "--seeds", str(given.seeds)]
        for name in CRITERIA:
            options += ["--selection", f"{name}-{given.rate:g}"]
        out = given.out or tempfile.mkdtemp()
        command = [*COMMAND, "ablate", job.id, "--server", served.url, "--out", out, *options]
        subprocess.run(command, check=True)
        say(f"the ablation: {time.monotonic() - started:.0f} s")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("scoring", "training", "ablation"))
    parser.add_argument("--corpus", nargs="+", required=True, metavar="PARQUET")
    parser.add_argument("--preset", default="gpt2-124m", help="of the reference, or of the proxies")
    parser.add_argument("--workers", type=int, default=0, help="of a dry run, which has fewer GPUs")
    parser.add_argument("--tokenizer", type=Path, help="of `scoring`: a tokenizer.json")
    parser.add_argument("--copies", type=int, default=6, help="of `scoring`")
    parser.add_argument("--tokens", type=int, default=5_000_000, help="of a training or a run")
    parser.add_argument("--service-tokens", type=int, default=20_000_000, help="of the training of a job")
    parser.add_argument("--seconds", type=float, default=10.0, help="that a speed of `training` is measured")
    parser.add_argument("--reference", default="4m", help="of `ablation`, and the rest")
    parser.add_argument("--reference-tokens", type=int, default=8_000_000)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--domains", action="store_true", help="the corpus has the fields id and domain")
    parser.add_argument("--out", help="folder of the ablation's results")
    given = parser.parse_args(arguments)
    name = torch.cuda.get_device_name() if GPUS else "CPU"
    say(f"{max(1, GPUS)} x {name}; {os.cpu_count()} cores; torch {torch.__version__}")
    {"scoring": scoring, "training": training, "ablation": ablation}[given.part](given)


if __name__ == "__main__":
    main()

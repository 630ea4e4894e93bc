"""The commands that call the API of a service: submit, status, watch, cancel, download, report."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from service.client import AsyncClient, Client, NotSucceeded
from service.commands import options
from service.commands.options import Parser
from service.commands.output import console, files_left_out, left_out, summary, trained_reference
from service.commands.progress import JobBar, goes_on
from service.contract.schemas import Job


def _add_server(parser: Parser) -> None:
    default = os.environ.get("WINNOW_SERVER", "http://127.0.0.1:8000")
    parser.add_argument(
        "--server",
        type=options.server,
        default=default,
        metavar="URL",
        help="URL of the service (default: %(default)s)",
    )
    options.add_key(parser)
    options.add_json(parser)


def add_submit(parser: Parser) -> None:
    """`winnow submit`."""
    options.add_corpus(parser)
    options.add_reference(parser)
    options.add_scores(parser)
    options.add_scoring(parser)
    options.add_job_selections(parser)
    parser.add_argument("--name", metavar="TITLE", help="a title, shown on the page")
    parser.add_argument(
        "--priority",
        type=int,
        default=0,
        metavar="N",
        help="-10 to 10; each step doubles the job's share of the workers (default: 0)",
    )
    parser.add_argument(
        "--idempotency-key",
        type=_idempotency_key,
        metavar="KEY",
        help="repeating a request with its key returns the same job",
    )
    parser.add_argument("--watch", action="store_true", help="then follow the job as `winnow watch` does")
    _add_server(parser)


def _idempotency_key(text: str) -> str:
    if not (0 < len(text) <= 255 and text.isascii() and text.isprintable()):
        raise argparse.ArgumentTypeError("not an idempotency key: use 1 to 255 printable ASCII characters")
    return text


def submit(parser: Parser, args: argparse.Namespace) -> int:
    """Submits a job and prints its id."""
    request = options.job_request(parser, args).model_dump(mode="json")
    request["corpus"]["paths"] = [_absolute(path) for path in request["corpus"]["paths"]]
    for named in (request["reference"] or {}, *request["scores"].values()):
        for kind in ("model", "reference", "classifier"):
            if named.get(kind) is not None and Path(named[kind]).exists():
                named[kind] = _absolute(named[kind])
    with Client(args.server, args.key) as client:
        job = client.create_job(request, idempotency_key=args.idempotency_key)
        if not args.watch:
            _print(args, job, job.id)
            return 0
        return _watch(client, job.id, args)


def add_status(parser: Parser) -> None:
    """`winnow status`."""
    parser.add_argument("job", nargs="?", metavar="JOB", help="id of a job (default: list the newest jobs)")
    _add_server(parser)


def status(_parser: Parser, args: argparse.Namespace) -> int:
    """Shows a job, or lists the newest jobs."""
    with Client(args.server, args.key) as client:
        if args.job is not None:
            job = client.get_job(args.job)
            _print(args, job, "\n".join([_line(job), *left_out(job.corpus)]))
            return 0
        jobs = client.list_jobs().data
    if args.json:
        sys.stdout.write(json.dumps([job.model_dump(mode="json") for job in jobs]) + "\n")
        return 0
    console().print(_job_table(jobs))
    return 0


def _job_table(jobs: list[Job]) -> Table:
    """A row per job; the columns of names, of files left out and of reasons only if some job has one."""
    names = [job.request.name or "" for job in jobs]
    left = [files_left_out(job.corpus) for job in jobs]
    errors = [job.error.detail if job.error else "" for job in jobs]
    more = {name: column for name, column in (("name", names), ("left out", left), ("error", errors)) if any(column)}
    table = Table("job", "status", "corpus", "documents", "tokens", "submitted", *more, box=None)
    for job, *cells in zip(jobs, *more.values(), strict=True):
        first, *others = job.request.corpus.paths
        corpus = f"{first} and {len(others):,} more" if others else first
        counts = f"{job.progress.documents_done:,}", f"{job.progress.tokens_done:,}"
        table.add_row(job.id, job.status, corpus, *counts, f"{job.created_at:%Y-%m-%d %H:%M:%S}", *cells)
    return table


def add_watch(parser: Parser) -> None:
    """`winnow watch`."""
    parser.add_argument("job", metavar="JOB", help="id of a job")
    _add_server(parser)


def watch(_parser: Parser, args: argparse.Namespace) -> int:
    """Follows a job until it ends. Raises NotSucceeded if the job failed or was cancelled."""
    with Client(args.server, args.key) as client:
        return _watch(client, args.job, args)


def add_cancel(parser: Parser) -> None:
    """`winnow cancel`."""
    add_watch(parser)


def cancel(_parser: Parser, args: argparse.Namespace) -> int:
    """Cancels a job."""
    with Client(args.server, args.key) as client:
        job = client.cancel_job(args.job)
    _print(args, job, _line(job))
    return 0


def add_download(parser: Parser) -> None:
    """`winnow download`."""
    parser.add_argument("job", metavar="JOB", help="id of a job")
    parser.add_argument(
        "--out",
        type=options.target,
        default=Path(),
        metavar="DIR",
        help="folder of the files (default: the current one)",
    )
    parser.add_argument(
        "--format",
        choices=("parquet", "jsonl"),
        default="parquet",
        help="format of manifests and rejects (default: %(default)s)",
    )
    parser.add_argument("--scores", action="store_true", help="also save the score of every document")
    _add_server(parser)


def download(_parser: Parser, args: argparse.Namespace) -> int:
    """Saves a job's manifests, rejects and report, and checks each against its SHA-256."""
    with Client(args.server, args.key) as client:
        job = client.get_job(args.job)
        args.out.mkdir(parents=True, exist_ok=True)
        saved = []
        for path in _saved(client, job, args):
            saved.append(str(path))
            if not args.json:
                sys.stdout.write(f"{path}\n")
    if args.json:
        sys.stdout.write(json.dumps(saved) + "\n")
    return 0


def _saved(client: Client, job: Job, args: argparse.Namespace) -> Iterator[Path]:
    """Saves the files of a job one by one."""
    for made in job.selections:
        path = args.out / f"manifest-{made.id}.{args.format}"
        client.download_manifest(job.id, made.id, path, format=args.format)
        yield path
    client.download_rejects(job.id, args.out / f"rejects.{args.format}", format=args.format)
    yield args.out / f"rejects.{args.format}"
    if args.scores:
        client.download_scores(job.id, args.out / "scores.parquet")
        yield args.out / "scores.parquet"
    client.download_report(job.id, args.out / "report.json")  # last: a failed job may have no report
    yield args.out / "report.json"


def add_report(parser: Parser) -> None:
    """`winnow report`."""
    parser.add_argument("job", metavar="JOB", help="id of a job")
    parser.add_argument(
        "--out",
        required=True,
        type=options.target,
        metavar="FILE",
        help="HTML file; the plots are saved in a folder beside it",
    )
    _add_server(parser)


def report(_parser: Parser, args: argparse.Namespace) -> int:
    """Saves the report of a job as one HTML file, and its plots as SVG and PNG."""
    from service.page.report import ReportData, fetch_report_data, write_report

    async def fetch() -> ReportData:
        async with AsyncClient(args.server, args.key) as client:
            return await fetch_report_data(client.get_json, args.job)

    data = asyncio.run(fetch())
    written = write_report(args.out, data, args.server)
    if args.json:
        sys.stdout.write(json.dumps([str(path) for path in written]) + "\n")
        return 0
    sys.stdout.write("".join(f"{path}\n" for path in written))
    if not any(path.suffix == ".png" for path in written):
        sys.stdout.write("To save the plots as PNG too: pip install 'winnow[report]'\n")
    return 0


def _watch(client: Client, job_id: str, args: argparse.Namespace) -> int:
    try:
        with goes_on("job", args.server, f"/jobs/{job_id}"), JobBar() as bar:
            job = client.wait_for_job(job_id, lambda job: bar(job.status, job.progress))
    except NotSucceeded as error:
        if isinstance(error.ended, Job):
            _show_left_out(args, error.ended)
        raise
    _show_left_out(args, job)
    if args.json:
        _print(args, job, "")
        return 0
    screen = console()
    report = client.get_report(job_id).model_dump(mode="json")
    for part in (*trained_reference(job.reference), *summary(report)):
        screen.print(part, soft_wrap=isinstance(part, str))
    return 0


def _show_left_out(args: argparse.Namespace, job: Job) -> None:
    for line in () if args.json else left_out(job.corpus):
        console().print(line, soft_wrap=True)


def _print(args: argparse.Namespace, job: Job, line: str) -> None:
    sys.stdout.write((json.dumps(job.model_dump(mode="json")) if args.json else line) + "\n")


def _line(job: Job) -> str:
    done = job.progress
    total = "" if done.documents_total is None else f" of {done.documents_total:,}"
    made = ", ".join(f"{made.id} ({made.documents:,})" for made in job.selections)
    parts = [job.status, f"{done.documents_done:,}{total} documents", f"{done.tokens_done:,} tokens"]
    return "; ".join(parts + ([made] if made else []) + ([job.error.detail] if job.error else []))


def _absolute(path: str) -> str:
    """A local path made absolute, as the service may run in another folder; a URL unchanged."""
    return path if "://" in path else os.path.abspath(Path(path).expanduser())  # noqa: PTH100 (links are not resolved)

"""The commands that call the API of a service: submit, status, watch, cancel, download, report."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from service.commands import options
from service.commands.client import ApiError, Client
from service.commands.options import Parser
from service.commands.output import console, files_left_out, left_out, progress_bar, summary, trained_reference
from service.contract.network import job_path
from service.contract.schemas import Job, JobCorpus, Progress


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
        headers = {"Idempotency-Key": args.idempotency_key} if args.idempotency_key else {}
        job = client.post("/v1/jobs", request, **headers)
        if not args.watch:
            _print(args, job, job["id"])
            return 0
        return _watch(client, job["id"], args)


def add_status(parser: Parser) -> None:
    """`winnow status`."""
    parser.add_argument("job", nargs="?", metavar="JOB", help="id of a job (default: list the newest jobs)")
    _add_server(parser)


def status(_parser: Parser, args: argparse.Namespace) -> int:
    """Shows a job, or lists the newest jobs."""
    with Client(args.server, args.key) as client:
        if args.job is not None:
            job = client.get(job_path(args.job))
            _print(args, job, "\n".join([_line(job), *left_out(_corpus(job))]))
            return 0
        jobs = client.get("/v1/jobs")["data"]
    if args.json:
        sys.stdout.write(json.dumps(jobs) + "\n")
        return 0
    console().print(_job_table(jobs))
    return 0


def _job_table(jobs: list[dict[str, Any]]) -> Table:
    """A row per job; the columns of files left out and of reasons only if a job left out files or has failed."""
    left = [files_left_out(_corpus(job)) for job in jobs]
    errors = [job["error"]["detail"] if job["error"] else "" for job in jobs]
    more = {name: column for name, column in (("left out", left), ("error", errors)) if any(column)}
    table = Table("job", "status", "corpus", "documents", "tokens", "submitted", *more, box=None)
    for job, *cells in zip(jobs, *more.values(), strict=True):
        first, *others = job["request"]["corpus"]["paths"]
        corpus = f"{first} and {len(others):,} more" if others else first
        progress, submitted = job["progress"], job["created_at"][:19].replace("T", " ")
        counts = f"{progress['documents_done']:,}", f"{progress['tokens_done']:,}"
        table.add_row(job["id"], job["status"], corpus, *counts, submitted, *cells)
    return table


def add_watch(parser: Parser) -> None:
    """`winnow watch`."""
    parser.add_argument("job", metavar="JOB", help="id of a job")
    _add_server(parser)


def watch(_parser: Parser, args: argparse.Namespace) -> int:
    """Follows a job until it ends. Raises ApiError if the job failed or was cancelled."""
    with Client(args.server, args.key) as client:
        return _watch(client, args.job, args)


def add_cancel(parser: Parser) -> None:
    """`winnow cancel`."""
    add_watch(parser)


def cancel(_parser: Parser, args: argparse.Namespace) -> int:
    """Cancels a job."""
    with Client(args.server, args.key) as client:
        job = client.post(job_path(args.job, "cancel"))
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
        job = client.get(job_path(args.job))
        files: dict[str, str] = {}
        for made in job["selections"]:
            files |= _table_files(client, f"manifest-{made['id']}", made["manifest_url"], args.format)
        files[f"rejects.{args.format}"] = f"{job_path(args.job, 'rejects')}?format={args.format}"
        if args.scores:
            files |= _table_files(client, "scores", job_path(args.job, "scores"), "parquet")
        files["report.json"] = job_path(args.job, "report")  # last: a failed job may have the other files but no report
        args.out.mkdir(parents=True, exist_ok=True)
        for name, url in files.items():
            _make_room(args.out, name, files)
            client.download(url, args.out / name)
            if not args.json:
                sys.stdout.write(f"{args.out / name}\n")
    if args.json:
        sys.stdout.write(json.dumps([str(args.out / name) for name in files]) + "\n")
    return 0


def _table_files(client: Client, name: str, url: str, kind: str) -> dict[str, str]:
    """The addresses of the files of a table by their names: of one file, or of the parts in a folder of its name."""
    found = client.get(f"{url}/parts")["data"]
    if len(found) == 1 and found[0]["url"] == url:
        return {f"{name}.{kind}": f"{url}?format={kind}"}
    stems = ((part["name"].removesuffix(".parquet"), part["url"]) for part in found)
    return {f"{name}.{kind}/{stem}.{kind}": f"{part}?format={kind}" for stem, part in stems}


def _make_room(out: Path, name: str, files: Iterable[str]) -> None:
    """Makes the folder of a part; other parts of an earlier download there are no part of the table and are removed.

    Raises ApiError where a folder or file is in the way of the other.
    """
    target = out / name
    if target.is_dir() or (target.parent.exists() and not target.parent.is_dir()):
        where = target if target.is_dir() else target.parent
        raise ApiError(f"{where}: is in the way of {target}: move it away, or choose another --out")
    target.parent.mkdir(exist_ok=True)
    for old in target.parent.glob(f"part-*{target.suffix}") if target.parent != out else ():
        if f"{target.parent.name}/{old.name}" not in files:
            old.unlink()


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
    from service.page.report import fetch_report_data, write_report

    with Client(args.server, args.key) as client:

        async def get(path: str, **params: Any) -> Any:
            return client.get(path, **params)

        data = asyncio.run(fetch_report_data(get, args.job))
    written = write_report(args.out, data, args.server)
    if args.json:
        sys.stdout.write(json.dumps([str(path) for path in written]) + "\n")
        return 0
    sys.stdout.write("".join(f"{path}\n" for path in written))
    if not any(path.suffix == ".png" for path in written):
        sys.stdout.write("To save the plots as PNG too: pip install 'winnow[report]'\n")
    return 0


def _watch(client: Client, job_id: str, args: argparse.Namespace) -> int:
    job: dict[str, Any] = {}
    with progress_bar() as bar:
        for job in client.events(job_id):
            bar(job["status"], Progress.model_validate(job["progress"]))
    screen = console()
    if not args.json:
        for line in left_out(_corpus(job)):
            screen.print(line, soft_wrap=True)
    if job["status"] == "failed":
        raise ApiError(f"job {job_id} failed: {job['error']['detail']}")
    if job["status"] == "cancelled":
        raise ApiError(f"job {job_id} was cancelled")
    if args.json:
        _print(args, job, "")
        return 0
    reference = Job.model_validate(job).reference
    for part in (*trained_reference(reference), *summary(client.get(job_path(job_id, "report")))):
        screen.print(part, soft_wrap=isinstance(part, str))
    return 0


def _corpus(job: dict[str, Any]) -> JobCorpus | None:
    return Job.model_validate(job).corpus


def _print(args: argparse.Namespace, value: dict[str, Any], line: str) -> None:
    sys.stdout.write((json.dumps(value) if args.json else line) + "\n")


def _line(job: dict[str, Any]) -> str:
    done, error = job["progress"], job["error"]
    total = "" if done["documents_total"] is None else f" of {done['documents_total']:,}"
    made = ", ".join(f"{s['id']} ({s['documents']:,})" for s in job["selections"])
    parts = [job["status"], f"{done['documents_done']:,}{total} documents", f"{done['tokens_done']:,} tokens"]
    return "; ".join(parts + ([made] if made else []) + ([error["detail"]] if error else []))


def _absolute(path: str) -> str:
    """A local path made absolute, as the service may run in another folder; a URL unchanged."""
    return path if "://" in path else os.path.abspath(Path(path).expanduser())  # noqa: PTH100 (links are not resolved)

"""The commands that speak to a service: submit, status, watch, cancel, download."""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from service.commands import options
from service.commands.client import ApiError, Client
from service.commands.options import Parser
from service.commands.output import progress_bar, summary
from service.contract.schemas import Progress


def _add_server(parser: Parser) -> None:
    default = os.environ.get("WINNOW_SERVER", "http://127.0.0.1:8000")
    parser.add_argument(
        "--server",
        type=options.server,
        default=default,
        metavar="URL",
        help="address of the service (default: %(default)s)",
    )
    parser.add_argument(
        "--key", default=os.environ.get("WINNOW_KEY"), help="key of the service (default: the variable WINNOW_KEY)"
    )
    options.add_json(parser)


def add_submit(parser: Parser) -> None:
    """`winnow submit`."""
    options.add_corpus(parser)
    options.add_reference(parser)
    options.add_scoring(parser)
    options.add_selections(parser)
    parser.add_argument("--priority", type=int, default=0, metavar="N", help="-10 to 10: each step doubles its share")
    parser.add_argument(
        "--idempotency-key", type=_key, metavar="KEY", help="the same key and request give the same job"
    )
    parser.add_argument("--watch", action="store_true", help="go on as `winnow watch`")
    _add_server(parser)


def _key(text: str) -> str:
    if not (0 < len(text) <= 255 and text.isascii() and text.isprintable()):
        raise argparse.ArgumentTypeError("it is no key: give 1 to 255 ASCII characters")
    return text


def submit(parser: Parser, args: argparse.Namespace) -> int:
    """Submits a job and prints its id."""
    request = options.job_request(parser, args).model_dump(mode="json")
    request["corpus"]["paths"] = [_absolute(path) for path in request["corpus"]["paths"]]
    model = request["reference"]["model"]
    if model is not None and Path(model).exists():
        request["reference"]["model"] = _absolute(model)
    with Client(args.server, args.key) as client:
        job = client.submit(request, args.idempotency_key)
        if not args.watch:
            _print(args, job, job["id"])
            return 0
        return _watch(client, job["id"], args)


def add_status(parser: Parser) -> None:
    """`winnow status`."""
    parser.add_argument("job", nargs="?", metavar="JOB", help="a job's id; without one, the newest jobs")
    _add_server(parser)


def status(_parser: Parser, args: argparse.Namespace) -> int:
    """Shows a job, or the newest jobs."""
    with Client(args.server, args.key) as client:
        if args.job is not None:
            job = client.job(args.job)
            _print(args, job, _line(job))
            return 0
        jobs = client.jobs()
    if args.json:
        sys.stdout.write(json.dumps(jobs) + "\n")
        return 0
    table = Table("job", "status", "documents", "tokens", "submitted", box=None)
    for job in jobs:
        done = job["progress"]
        when = job["created_at"][:19].replace("T", " ")
        table.add_row(job["id"], job["status"], f"{done['documents_done']:,}", f"{done['tokens_done']:,}", when)
    Console().print(table)
    return 0


def add_watch(parser: Parser) -> None:
    """`winnow watch`."""
    parser.add_argument("job", metavar="JOB", help="a job's id")
    _add_server(parser)


def watch(_parser: Parser, args: argparse.Namespace) -> int:
    """Follows a job until it ends; fails if the job did."""
    with Client(args.server, args.key) as client:
        return _watch(client, args.job, args)


def add_cancel(parser: Parser) -> None:
    """`winnow cancel`."""
    add_watch(parser)


def cancel(_parser: Parser, args: argparse.Namespace) -> int:
    """Cancels a job."""
    with Client(args.server, args.key) as client:
        job = client.cancel(args.job)
    _print(args, job, _line(job))
    return 0


def add_download(parser: Parser) -> None:
    """`winnow download`."""
    parser.add_argument("job", metavar="JOB", help="a job's id")
    parser.add_argument(
        "--out", type=options.target, default=Path(), metavar="DIR", help="folder to save in (default: here)"
    )
    parser.add_argument("--format", choices=("parquet", "jsonl"), default="parquet", help="of manifests and rejects")
    parser.add_argument("--scores", action="store_true", help="every document's score too")
    _add_server(parser)


def download(_parser: Parser, args: argparse.Namespace) -> int:
    """Saves a job's manifests, rejects and report, each checked against its hash."""
    with Client(args.server, args.key) as client:
        job = client.job(args.job)
        base = f"/v1/jobs/{job['id']}"
        files = {
            f"manifest-{made['id']}.{args.format}": f"{made['manifest_url']}?format={args.format}"
            for made in job["selections"]
        }
        files[f"rejects.{args.format}"] = f"{base}/rejects?format={args.format}"
        if args.scores:
            files["scores.parquet"] = f"{base}/scores"
        files["report.json"] = f"{base}/report"  # last: a job that failed may have the others
        args.out.mkdir(parents=True, exist_ok=True)
        for name, url in files.items():
            client.download(url, args.out / name)
            if not args.json:
                sys.stdout.write(f"{args.out / name}\n")
    if args.json:
        sys.stdout.write(json.dumps([str(args.out / name) for name in files]) + "\n")
    return 0


def add_report(parser: Parser) -> None:
    """`winnow report`."""
    parser.add_argument("job", metavar="JOB", help="a job's id")
    parser.add_argument(
        "--out",
        required=True,
        type=options.target,
        metavar="FILE",
        help="HTML file; its plots go into a folder beside it",
    )
    _add_server(parser)


def report(_parser: Parser, args: argparse.Namespace) -> int:
    """Saves the report of a scored job as one HTML file, and its plots as SVG and PNG."""
    from service.page.report import gather, write_report

    with Client(args.server, args.key) as client:

        async def get(path: str, **params: Any) -> Any:
            return client.get(path, params)

        material = asyncio.run(gather(get, args.job))
    written = write_report(args.out, material, args.server)
    if args.json:
        sys.stdout.write(json.dumps([str(path) for path in written]) + "\n")
        return 0
    sys.stdout.write("".join(f"{path}\n" for path in written))
    if not any(path.suffix == ".png" for path in written):
        sys.stdout.write("For the plots as PNG too: pip install 'winnow[report]'\n")
    return 0


def _watch(client: Client, job_id: str, args: argparse.Namespace) -> int:
    job: dict[str, Any] = {}
    with progress_bar() as bar:
        for job in client.events(job_id):
            bar(job["status"], Progress.model_validate(job["progress"]))
    if job["status"] == "failed":
        raise ApiError(f"job {job_id} failed: {job['error']['detail']}")
    if job["status"] == "cancelled":
        raise ApiError(f"job {job_id} was cancelled")
    if args.json:
        _print(args, job, "")
        return 0
    wide = Console(width=None if sys.stdout.isatty() else 160)
    for part in summary(client.report(job_id)):
        wide.print(part, highlight=False)
    return 0


def _print(args: argparse.Namespace, value: dict[str, Any], line: str) -> None:
    sys.stdout.write((json.dumps(value) if args.json else line) + "\n")


def _line(job: dict[str, Any]) -> str:
    done, error = job["progress"], job["error"]
    total = "" if done["documents_total"] is None else f" of {done['documents_total']:,}"
    made = ", ".join(f"{s['id']} ({s['documents']:,})" for s in job["selections"])
    parts = [job["status"], f"{done['documents_done']:,}{total} documents", f"{done['tokens_done']:,} tokens"]
    return "; ".join(parts + ([made] if made else []) + ([error["detail"]] if error else []))


def _absolute(path: str) -> str:
    """A local path as the service can find it, whatever folder it runs in."""
    return path if "://" in path else os.path.abspath(Path(path).expanduser())  # noqa: PTH100 (`..` goes, links stay)

"""`make scale-planning`: a corpus of 10^6 local files is planned, and as many keys of an S3 server are listed.

Prints time and memory. The S3 server is one of its own, which only lists: it sends each page of 1,000 keys at once, so
that the time is the client's. `python -m tests.scale.planning 1e5` measures another number. Status 1 if a target is
missed.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pruner.corpus import sandbox
from pruner.corpus.listing import list_files
from pruner.corpus.plan_file import read_plan, write_plan
from pruner.spec import CorpusSpec
from pruner.tables.storage import Storage
from tests.scale.figures import Figure, show
from tests.scale.processes import peak_mib

FOLDER_FILES, LINKS = 1_000, 50_000  # in a folder, and to one file
PAGE_KEYS = 1_000
LISTING_SECONDS, MEMORY_MIB = 180.0, 1_024.0
STARTED = b'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
KEY = (
    "<Contents><Key>data/{0:05}/part-{1:09}.jsonl</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;{1:032x}&quot;</ETag><Size>1000</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def make_corpus(folder: Path, files: int) -> None:
    """Files of a line each: links to few, as they take neither time nor space."""
    for number in range(files):
        if number % LINKS == 0:
            source = folder.parent / f"source-{number}"
            source.write_text('{"text": "a document", "id": 1}\n')
        if number % FOLDER_FILES == 0:
            parent = folder / f"{number // FOLDER_FILES:05}"
            parent.mkdir(parents=True)
        os.link(source, parent / f"part-{number:09}.jsonl")


def measure_planning(folder: Path, files: int) -> list[Figure]:
    """A plan of local files, made, written and read."""
    make_corpus(folder / "corpus", files)
    planning, seen = sandbox.Planning(), []
    begun = time.perf_counter()

    def waiting() -> None:
        seen.append((planning.listed, planning.looked))

    before = peak_mib(os.getpid())
    plan = sandbox.make_plan(CorpusSpec(paths=[str(folder / "corpus")]), waiting=waiting, planning=planning)
    seconds = time.perf_counter() - begun
    reader = sandbox._idle[sandbox._PROGRAM][0].pid
    assert len(plan.files) == files
    assert len(set(seen)) > 2 or seconds < 2
    storage = Storage(str(folder / "workspace"))
    begun = time.perf_counter()
    write_plan(storage, "plan.parquet", plan)
    assert len(read_plan(storage, "plan.parquet").files) == files
    return [
        Figure("planning local files", "s", seconds),
        Figure("memory of the reader at most", "MiB", peak_mib(reader), MEMORY_MIB),
        Figure("growth of the process that asks", "MiB", peak_mib(os.getpid()) - before, MEMORY_MIB),
        Figure("writing and reading the plan", "s", time.perf_counter() - begun),
    ]


def key_server(files: int) -> ThreadingHTTPServer:
    """An S3 server of one bucket, which can only be listed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            start = int(asked.get("continuation-token", ["0"])[0])
            stop = min(start + min(PAGE_KEYS, int(asked.get("max-keys", ["1000"])[0])), files)
            keys = "".join(KEY.format(number // FOLDER_FILES, number) for number in range(start, stop))
            more = f"<NextContinuationToken>{stop}</NextContinuationToken>" if stop < files else ""
            truncated = "true" if stop < files else "false"
            about = f"<Name>bucket</Name><KeyCount>{stop - start}</KeyCount><IsTruncated>{truncated}</IsTruncated>"
            body = about + more + keys
            self.answer(200, STARTED + body.encode() + b"</ListBucketResult>")

        def do_HEAD(self) -> None:
            self.answer(404, b"")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def measure_listing(files: int) -> list[Figure]:
    """A listing of keys."""
    server = key_server(files)
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before, begun = peak_mib(os.getpid()), time.perf_counter()
    told: list[int] = []
    found = list_files(CorpusSpec(paths=["s3://bucket/data"]), on_listed=told.append)
    seconds = time.perf_counter() - begun
    assert len(found.files) == files
    assert told[-1] > 0.99 * files - PAGE_KEYS
    process.kill()
    return [
        Figure("listing S3 keys", "s", seconds, LISTING_SECONDS),
        Figure("growth of the process that lists", "MiB", peak_mib(os.getpid()) - before, MEMORY_MIB),
    ]


def main() -> int:
    """Prints a table; returns the exit status."""
    files = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**6
    figures = measure_listing(files)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        figures += measure_planning(Path(name), files)
    return show({f"{files:,} files": figures})


if __name__ == "__main__":
    sys.exit(main())

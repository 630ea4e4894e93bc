"""Files of the workspace over HTTP: conditional requests and ranges as in RFC 9110, the ETag a file's SHA-256."""

import re
from collections.abc import Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from pruner.tables.storage import Storage
from service.http.problems import problem

MEDIA_TYPES = {
    "parquet": "application/vnd.apache.parquet",
    "jsonl": "application/x-ndjson",
    "json": "application/json",
}
_CHUNK = 1 << 18  # bytes


def send_file(request: Request, storage: Storage, path: str, about: dict[str, Any], name: str) -> Response:
    """The answer to a GET or HEAD for a file: `about` holds its `sha256` and `size`, users save it as `name`."""
    size, etag = int(about["size"]), f'"{about["sha256"]}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, size, 200
    wanted = request.headers.get("range")
    if wanted is not None and request.method == "GET" and request.headers.get("if-range", etag) == etag:
        found = _range(wanted, size)
        if found is not None and found[0] >= found[1]:
            unsatisfied = {"Content-Range": f"bytes */{size}"}
            return problem(request, 416, f"{wanted!r} is outside the file's {size:,} bytes", unsatisfied)
        if found is not None:
            (start, stop), status = found, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(_pieces(storage, path, start, stop), status, headers, media_type)


def _pieces(storage: Storage, path: str, start: int, stop: int) -> Iterator[bytes]:
    with storage.open(path) as file:
        file.seek(start)
        while start < stop and (piece := file.read(min(_CHUNK, stop - start))):
            start += len(piece)
            yield piece


def _matches(header: str | None, etag: str) -> bool:
    """Whether If-None-Match names this file, by the weak comparison of RFC 9110, section 8.8.3.2."""
    if header is None:
        return False
    return header.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in header.split(","))


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Bytes [start, stop) that a Range header asks for, which may be none; None if the header is to be ignored."""
    match = re.fullmatch(r"bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", header.strip(), re.IGNORECASE | re.ASCII)
    if match is None or match.groups() == ("", ""):
        return None  # several ranges, another unit or nonsense: the whole file is a right answer
    first, last = match.groups()
    if first == "":
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    return start, stop

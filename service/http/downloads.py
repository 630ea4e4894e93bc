"""Downloads of workspace files, with conditional requests and ranges (RFC 9110). The ETag is the file's SHA-256."""

import hashlib
import re
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from pruner.tables.hashing_writer import WrittenFile
from pruner.tables.storage import Storage
from service.http.problems import problem, responses

MEDIA_TYPES = {
    "parquet": "application/vnd.apache.parquet",
    "jsonl": "application/x-ndjson",
    "json": "application/json",
}
_ANY_FILE = "application/octet-stream"
Answers = dict[int | str, dict[str, Any]]  # the OpenAPI `responses` of an endpoint
DOWNLOADED: Answers = {
    206: {"description": "The range that was asked for"},
    304: {"description": "The file is as the ETag says"},
    **responses(404, 409, 416, 422),
}


def file_answers(*formats: str) -> Answers:
    """The OpenAPI `responses` of an endpoint that sends files of these formats.

    They name `application/octet-stream` first: generators of clients know it, and take the first type that they know.
    """
    types = [_ANY_FILE, *(MEDIA_TYPES[name] for name in formats)]
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in types}
    part = DOWNLOADED[206] | {"content": content}
    return {200: {"description": "The file", "content": content}, **DOWNLOADED, 206: part}


def describe(storage: Storage, path: str) -> WrittenFile:
    """The `about` of a small file whose hash is stored nowhere. Raises FileNotFoundError."""
    body = storage.read_bytes(path)
    return WrittenFile(sha256=hashlib.sha256(body).hexdigest(), size=len(body))


def send_file(request: Request, storage: Storage, path: str, about: WrittenFile, name: str) -> Response:
    """The answer to a GET or HEAD of a file.

    `about` has the file's `sha256` (hex) and `size` (bytes); `name` is the file name that the client saves it under.
    """
    size, etag = about.size, f'"{about.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": _attachment(name),
        "X-Content-Type-Options": "nosniff",
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, size, 200
    range_header = request.headers.get("range")
    if range_header is not None and request.method == "GET" and request.headers.get("if-range", etag) == etag:
        found = _parse_range(range_header, size)
        if found is not None and found[0] >= found[1]:
            unsatisfied = {"Content-Range": f"bytes */{size}"}
            return problem(request, 416, f"{range_header!r} is outside the file's {size:,} bytes", unsatisfied)
        if found is not None:
            (start, stop), status = found, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    media_type = MEDIA_TYPES.get(name.rpartition(".")[2], _ANY_FILE)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(storage.read_range(path, start, stop), status, headers, media_type)


def _attachment(name: str) -> str:
    """The Content-Disposition of a file (RFC 6266): a name with other characters is percent-encoded."""
    encoded = quote(name, safe="")
    plain = encoded == name or re.fullmatch(r"[\w .,=@+-]+", name, re.ASCII) is not None
    return f'attachment; filename="{name}"' if plain else f"attachment; filename*=UTF-8''{encoded}"


def _matches(header: str | None, etag: str) -> bool:
    """Whether If-None-Match has this ETag, by the weak comparison of RFC 9110, section 8.8.3.2."""
    if header is None:
        return False
    return header.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in header.split(","))


def _parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The bytes [start, stop) of a Range header, empty if outside the file; None for a header to ignore."""
    match = re.fullmatch(r"bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", header.strip(), re.IGNORECASE | re.ASCII)
    if match is None or match.groups() == ("", ""):
        return None  # several ranges, another unit or malformed: the RFC allows to send the whole file
    first, last = match.groups()
    if first == "":
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    return start, stop

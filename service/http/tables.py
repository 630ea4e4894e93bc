"""The tables of a job over HTTP: as one file, or the list of their parts and each part, as Parquet or JSON lines."""

from typing import Literal, NamedTuple

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from pruner.tables.hashing_writer import WrittenFile
from pruner.tables.json_lines import as_json_lines
from pruner.tables.storage import Storage
from pruner.tables.table_files import parts_of
from service.contract.schemas import TableFile, TableFiles
from service.http.downloads import send_file
from service.jobs.jobs import Conflict

Format = Literal["parquet", "jsonl"]


class JobTable(NamedTuple):
    """A table of a job: `name`.parquet in a folder of the workspace, a file or a folder of parts."""

    storage: Storage
    folder: str
    name: str
    files: dict[str, WrittenFile]  # by their paths in the folder, which may hold those of other tables too
    saved_as: str  # the name, without a suffix, that a client saves it under
    url: str  # of the whole table

    @property
    def parts(self) -> dict[str, WrittenFile]:
        """The parts by their names, in their order; none where the table is one file."""
        return parts_of(self.files, f"{self.name}.parquet")


def send_table(request: Request, table: JobTable, kind: Format) -> Response:
    """The answer to a GET or HEAD of a whole table. Raises Conflict where it is a folder of parts."""
    if table.parts:
        raise Conflict(
            f"the table is too large for one file: download its {len(table.parts):,} parts, which "
            f"{table.url}/parts lists"
        )
    return _send(request, table.storage, table.folder, table.name, table.files, kind, table.saved_as)


def list_parts(table: JobTable) -> TableFiles:
    """The files of a table: its parts, or the only file."""
    if not table.parts:
        about = table.files[f"{table.name}.parquet"]
        name = f"{table.saved_as}.parquet"
        return TableFiles(data=[TableFile(name=name, bytes=about.size, sha256=about.sha256, url=table.url)])
    return TableFiles(
        data=[
            TableFile(name=name, bytes=about.size, sha256=about.sha256, url=f"{table.url}/parts/{number}")
            for number, (name, about) in enumerate(table.parts.items())
        ]
    )


def send_part(request: Request, table: JobTable, part: int, kind: Format) -> Response:
    """The answer to a GET or HEAD of a part. Raises HTTPException for one that is not there."""
    names = list(table.parts)
    if part >= len(names):
        have = f"{len(names):,} parts" if names else "one file and no parts"
        raise HTTPException(404, f"the table has no part {part}: it has {have}")
    folder, name = f"{table.folder}/{table.name}.parquet", names[part].removesuffix(".parquet")
    return _send(request, table.storage, folder, name, table.parts, kind, f"{table.saved_as}-{name}")


def _send(
    request: Request,
    storage: Storage,
    folder: str,
    name: str,
    files: dict[str, WrittenFile],
    kind: Format,
    saved_as: str,
) -> Response:
    """Sends the Parquet file `name` of a folder, or the JSON lines that are made of it at the first request."""
    about = files[f"{name}.parquet"] if kind == "parquet" else as_json_lines(storage, folder, name)
    return send_file(request, storage, f"{folder}/{name}.{kind}", about, f"{saved_as}.{kind}")

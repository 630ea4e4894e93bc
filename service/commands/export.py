"""`winnow export`: from the results of `winnow prune` on this machine, or from a job of a service."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

from pruner.export.export_record import CARD_FILE, EXPORT_FILE
from pruner.export.formats import ExportFormat, export_root
from pruner.export.output_folder import MARKER_FILE, OutputFolder
from pruner.tables.hashing_writer import hashed
from pruner.tables.storage import Storage
from service.commands import options
from service.commands.client import ApiError, Client
from service.commands.options import Parser
from service.commands.output import parts_bar
from service.contract.network import job_path

if TYPE_CHECKING:
    from service.contract.schemas import Export

_LOOK_SECONDS = 0.5


def add_export(parser: Parser) -> None:
    """`winnow export`."""
    parser.add_argument(
        "source", metavar="SOURCE", help="folder that `winnow prune` filled; with --server, the id of a job"
    )
    parser.add_argument(
        "--selection", required=True, metavar="ID", help="such as medium-0.5; all: every scored document"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=_place,
        metavar="DIR|URL",
        help="folder or URL of the export, empty or not there; of the format dolma, the root of the corpus",
    )
    parser.add_argument(
        "--format",
        choices=get_args(ExportFormat),
        default="same",
        help="format of the files (default: same, as in the corpus; dolma: attributes for the Dolma toolkit)",
    )
    parser.add_argument("--scores", action="store_true", help="add winnow_nll, winnow_n_tokens, … to the rows")
    parser.add_argument("--server", type=options.server, metavar="URL", help="URL of a service that has the job")
    options.add_key(parser)
    options.add_json(parser)


def _place(text: str) -> str:
    """Parses the folder or URL to write to; a local path becomes absolute."""
    return text if "://" in text else str(options.target(text).expanduser().absolute())


def export(_parser: Parser, args: argparse.Namespace) -> int:
    """Writes the kept documents of a selection as corpus files."""
    with parts_bar() as tell:
        made = _from_folder(args, tell) if args.server is None else _from_service(args, tell)
    if args.json:
        sys.stdout.write(json.dumps(made) + "\n")
        return 0
    files, size = made["files"], sum(file["bytes"] for file in made["files"])
    documents = sum(file["rows"] for file in files)
    word = "files" if len(files) > 1 else "file"
    sys.stdout.write(f"{documents:,} documents in {len(files):,} {word}, {size / 1e6:,.1f} MB: {args.out}\n")
    return 0


def _from_folder(args: argparse.Namespace, tell: Callable[["Export"], None]) -> dict[str, Any]:
    from service.contract.schemas import ExportOptions
    from service.work.local_export import export_selection

    wanted = ExportOptions(format=args.format, scores=args.scores, out=args.out)
    return export_selection(Path(args.source), args.selection, wanted, tell).model_dump(mode="json")


def _from_service(args: argparse.Namespace, tell: Callable[["Export"], None]) -> dict[str, Any]:
    """Lets the service export: to a URL itself, to its workspace for a local folder, which is filled from there."""
    from service.contract.schemas import Export

    remote = "://" in args.out
    body = {"format": args.format, "scores": args.scores, "out": args.out if remote else None}
    with Client(args.server, args.key) as client:
        shown = client.post(job_path(args.source, "selections", args.selection, "exports"), body)
        address = job_path(args.source, "exports", shown["id"])
        while shown["status"] in ("queued", "running"):
            tell(Export.model_validate(shown))
            time.sleep(_LOOK_SECONDS)
            shown = client.get(address)
        if shown["status"] != "succeeded":
            error = shown["error"] or {"detail": shown["status"]}
            raise ApiError(f"the export failed: {error['detail']}")
        if not remote:
            root = export_root(args.out, args.format, args.selection)
            _fill(client, f"{address}/files", Path(root), shown)
    return shown


def _fill(client: Client, address: str, out: Path, shown: dict[str, Any]) -> None:
    """Downloads the files of an export that are not there yet, export.json last. Raises InputError, ApiError."""
    files = {file["path"]: file["sha256"] for file in shown["files"]}
    about = client.get(f"{address}/{EXPORT_FILE}")
    folder = OutputFolder(Storage(str(out)), about["key"])
    if folder.is_complete:
        return
    folder.take([*files, CARD_FILE])
    for name, sha256 in {**files, CARD_FILE: None, EXPORT_FILE: None}.items():
        target = out / name
        if sha256 is None or not target.exists() or hashed(target) != sha256:
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download(f"{address}/{quote(name)}", target)
    (out / MARKER_FILE).unlink()

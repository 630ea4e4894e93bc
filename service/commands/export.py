"""`winnow export`: from the results of `winnow prune` on this machine, or from a job of a service."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from pruner.export.formats import ExportFormat, export_root
from service.client import Client
from service.commands import options
from service.commands.options import Parser
from service.commands.progress import ExportBar, goes_on
from service.contract.schemas import Export, ExportOptions


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
    with ExportBar() as tell:
        made = _from_folder(args, tell) if args.server is None else _from_service(args, tell)
    if args.json:
        sys.stdout.write(json.dumps(made) + "\n")
        return 0
    files, size = made["files"], sum(file["bytes"] for file in made["files"])
    documents = sum(file["rows"] for file in files)
    word = "files" if len(files) > 1 else "file"
    sys.stdout.write(f"{documents:,} documents in {len(files):,} {word}, {size / 1e6:,.1f} MB: {args.out}\n")
    return 0


def _from_folder(args: argparse.Namespace, tell: Callable[[Export], None]) -> dict[str, Any]:
    from service.work.local_export import export_selection

    wanted = ExportOptions(format=args.format, scores=args.scores, out=args.out)
    return export_selection(Path(args.source), args.selection, wanted, tell).model_dump(mode="json")


def _from_service(args: argparse.Namespace, tell: Callable[[Export], None]) -> dict[str, Any]:
    """Lets the service export: to a URL itself, to its workspace for a local folder, which is filled from there."""
    remote = "://" in args.out
    wanted = ExportOptions(format=args.format, scores=args.scores, out=args.out if remote else None)
    with Client(args.server, args.key) as client:
        begun = client.create_export(args.source, args.selection, wanted)
        with goes_on("export", args.server, f"/jobs/{args.source}"):
            made = client.wait_for_export(args.source, begun.id, tell)
        if not remote:
            root = export_root(args.out, args.format, args.selection)
            client.download_export(args.source, made.id, root)
    return made.model_dump(mode="json")

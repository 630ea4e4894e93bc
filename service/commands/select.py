"""`winnow select`: selections over score tables, Winnow's own or any Parquet files with a numeric column."""

import argparse
import errno
import os
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

import service
from pruner.errors import InputError
from pruner.score_tables.select_tables import SelectedTables, select_tables
from pruner.score_tables.tables import Tables, open_tables
from pruner.spec import SelectionSpec
from service.commands import options
from service.commands.options import Parser
from service.commands.output import console, left_out
from service.commands.progress import StepBar
from service.contract.schemas import JobCorpus

_THREADS_MAX = 16  # each needs some 100 MB


def add_select(parser: Parser) -> None:
    """`winnow select`."""
    parser.add_argument(
        "tables",
        nargs="+",
        type=options.corpus_path,
        metavar="TABLE",
        help="score tables: Parquet files, folders, globs or URLs",
    )
    options.add_filters(parser)
    parser.add_argument(
        "--key", metavar="COLUMN", help="numeric column to order by, small values first (default: nll / n_tokens)"
    )
    options.add_selections(parser)
    options.add_json(parser)
    parser.add_argument("--out", required=True, type=options.target, metavar="DIR", help="folder of the manifests")


def select(parser: Parser, args: argparse.Namespace) -> int:
    """Writes the manifest of each selection."""
    specs = options.selections(parser, args)
    if args.key is not None and args.per is not None:
        parser.error("--per is for the order by nll; with --key the column is the order")
    started = time.monotonic()
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"{args.out}: is a file; name a folder for the manifests")
    tables = open_tables(args.tables, args.include, args.exclude, _earlier(args.out, args.tables))
    args.out.mkdir(parents=True, exist_ok=True)

    def path_of(spec: SelectionSpec) -> Path:
        return Path(args.out, f"manifest-{spec.id}.parquet")

    for spec in specs:
        _refuse(path_of(spec), tables)
    about = {"winnow": service.__version__, "versions": {name: version(name) for name in ("numpy", "pyarrow")}}
    threads = min(len(os.sched_getaffinity(0)), _THREADS_MAX)
    try:
        with StepBar("counting") as on_progress:
            made = select_tables(tables, args.key, specs, path_of, about, threads, on_progress)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(f"no space left for {args.out}: free some and run this again") from None
    seconds = time.monotonic() - started
    if args.json:
        selections = [_fields(one) for one in made]
        others = [asdict(left) for left in tables.left_out]
        answer = {"rows": tables.rows, "left_out": others, "selections": selections, "seconds": seconds}
        sys.stdout.write(orjson.dumps(answer).decode() + "\n")
    else:
        _show(tables, made, args.out, seconds)
    return 0


def _earlier(out: Path, paths: list[str]) -> list[str]:
    """The real paths of manifests of earlier runs in `out`, which are no tables unless they are named as such."""
    named = {os.path.realpath(path) for path in paths}
    found = (path for path in out.glob("manifest-*.parquet") if os.path.realpath(path) not in named)
    return [os.path.realpath(path) + "/" * path.is_dir() for path in found if _is_manifest(path)]


def _refuse(path: Path, tables: Tables) -> None:
    """Raises InputError if a manifest would replace a table that is read, or what is no manifest."""
    real = os.path.realpath(path)
    if any(os.path.realpath(table.path.url) in (real, f"{real}/{table.name}") for table in tables.tables):
        raise InputError(f"{path}: is one of the tables, and would be replaced: choose another --out")
    if path.exists() and not _is_manifest(path):
        raise InputError(f"{path}: is there, and no manifest of Winnow's: remove it, or choose another --out")


def _is_manifest(path: Path) -> bool:
    """Whether a file, or the first part of a folder, is a manifest of Winnow's."""
    first = min(path.glob("*.parquet"), default=path) if path.is_dir() else path
    try:
        return b"winnow" in (pq.read_metadata(first).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def _fields(one: SelectedTables) -> dict[str, object]:
    spec = one.spec.model_dump()
    return {"id": one.spec.id} | spec | {"manifest": str(one.manifest)} | {
        name: getattr(one, name) for name in ("documents", "tokens", "ranked", "left_out", "lowest", "highest")
    }  # fmt: skip


def _show(tables: Tables, made: list[SelectedTables], out: Path, seconds: float) -> None:
    screen = console()
    files = f"{len(tables.tables):,} table" + ("s" if len(tables.tables) > 1 else "")
    screen.print(f"{tables.rows:,} rows in {files}; {seconds:,.1f} s", soft_wrap=True)
    size = sum(table.size for table in tables.tables)
    for line in left_out(JobCorpus.of(len(tables.tables), size, tables.left_out)):
        screen.print(line, soft_wrap=True)
    for reason, rows in {reason: rows for one in made for reason, rows in one.left_out.items()}.items():
        screen.print(f"left out: {rows:,} {reason}", soft_wrap=True)
    table = Table(title="Selections", title_justify="left")
    for name in ("selection", "of rows", "kept", "tokens", "key from", "to"):
        table.add_column(name, justify="left" if name == "selection" else "right")
    for one in made:
        ends = ["–" if end is None else f"{end:,.6g}" for end in (one.lowest, one.highest)]
        tokens = "–" if one.tokens is None else f"{one.tokens:,}"
        table.add_row(one.spec.id, f"{one.ranked:,}", f"{one.documents:,}", tokens, *ends)
    screen.print(table)
    screen.print(f"Manifests in {out}", soft_wrap=True)

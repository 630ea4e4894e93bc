"""`winnow check`: looks at a corpus without a job."""

import argparse
import sys

from rich.table import Table

from pruner.corpus.check import CorpusCheck
from pruner.corpus.sandbox import check_corpus
from service.commands import options
from service.commands.options import Parser
from service.commands.output import console, left_out
from service.contract.schemas import JobCorpus

_ROWS_MAX = 20  # of a table


def add_check(parser: Parser) -> None:
    """`winnow check`."""
    options.add_corpus(parser)
    options.add_json(parser)


def check(parser: Parser, args: argparse.Namespace) -> int:
    """Shows files, fields and first documents of a corpus; returns 1 if a job over it would fail."""
    found = check_corpus(options.corpus(parser, args))
    if args.json:
        sys.stdout.write(found.model_dump_json() + "\n")
    else:
        _show(found)
    return 1 if found.problems else 0


def _show(found: CorpusCheck) -> None:
    screen = console()
    size = sum(file.bytes for file in found.files)
    rows = [file.rows for file in found.files]
    known = f", {sum(count or 0 for count in rows):,} rows" if None not in rows else ""
    tokens = f", about {found.estimate.tokens:,} tokens" if found.estimate.tokens else ""
    screen.print(f"files: {len(found.files):,}, {size:,} bytes{known}{tokens}", soft_wrap=True)
    for line in left_out(JobCorpus.of(len(found.files), size, found.left_out)):
        screen.print(line, soft_wrap=True)
    files = Table("file", "format", "bytes", "rows", title="Files", title_justify="left")
    for file in found.files[:_ROWS_MAX]:
        files.add_row(file.path, file.format, f"{file.bytes:,}", "" if file.rows is None else f"{file.rows:,}")
    if len(found.files) > _ROWS_MAX:
        files.caption = f"the first {_ROWS_MAX} of {len(found.files):,} files"
    fields = Table("field", "type", title="Fields", title_justify="left")
    for field in found.fields[:_ROWS_MAX]:
        fields.add_row(field.name, field.type)
    if len(found.fields) > _ROWS_MAX:
        fields.caption = f"the first {_ROWS_MAX} of {len(found.fields):,} fields"
    for table in (table for table in (files, fields) if table.row_count):
        screen.print(table)
    for number, text in enumerate(found.documents, 1):
        screen.print(f"document {number}: {text!r}", soft_wrap=True)
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in found.suggested if value is not None]
    if flags:
        screen.print(f"suggested: {' '.join(flags)}", soft_wrap=True)
    for problem in found.problems:
        screen.print(f"problem: {problem}", soft_wrap=True)

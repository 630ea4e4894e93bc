"""The commands that need no server: prune, train, score, convert."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.errors import InputError
from service.commands import options
from service.commands.options import Parser
from service.commands.output import console, lacking, left_out, rows_left_out, scored_texts, summary, trained_reference
from service.commands.progress import JobBar

if TYPE_CHECKING:
    from service.contract.schemas import Job
    from service.kinds.job_files import JobFiles


def add_prune(parser: Parser) -> None:
    """`winnow prune`."""
    options.add_corpus(parser)
    options.add_reference(parser)
    options.add_scores(parser)
    options.add_scoring(parser)
    options.add_job_selections(parser)
    options.add_device(parser)
    options.add_json(parser)
    parser.add_argument("--out", required=True, type=options.target, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--report", type=options.target, metavar="FILE", help="an HTML report too, its plots in a folder beside it"
    )


def prune(parser: Parser, args: argparse.Namespace) -> int:
    """Scores a corpus and writes the selections' manifests."""
    import orjson

    from service.work import local

    def on_end(files: "JobFiles", job: "Job") -> None:
        if args.report is not None:
            from service.page.report import write_local_report

            write_local_report(files, job, args.report)

    removed: list[str] = []
    request = options.job_request(parser, args)
    started = time.monotonic()
    with JobBar() as bar:
        job = local.prune(request, args.out, args.device, bar, on_end, removed.append)
    seconds = time.monotonic() - started
    if removed:
        names = ", ".join(removed)
        sys.stderr.write(f"warning: removed the results of another corpus or reference from {args.out}: {names}\n")
    report = orjson.loads((args.out / "report.json").read_bytes())
    if args.json:
        selections = [made.model_dump() for made in job.selections]
        corpus = job.corpus.model_dump() if job.corpus is not None else None
        reference = job.reference.model_dump() if job.reference is not None else None
        answer = {
            "selections": selections,
            "report": report,
            "corpus": corpus,
            "reference": reference,
            "seconds": seconds,
        }
        sys.stdout.write(orjson.dumps(answer).decode() + "\n")
        return 0
    screen = console()
    for part in (*left_out(job.corpus), *trained_reference(job.reference), *summary(report, seconds)):
        screen.print(part, soft_wrap=isinstance(part, str))
    screen.print(f"Results in {args.out}", soft_wrap=True)
    return 0


def add_score(parser: Parser) -> None:
    """`winnow score`."""
    options.add_corpus(parser)
    parser.add_argument("--reference", metavar="MODEL", help="model folder or hub id")
    options.add_scores(parser)
    options.add_scoring(parser)
    options.add_device(parser)
    parser.add_argument("--out", type=options.target, metavar="FILE", help="Parquet file of the scores")
    parser.add_argument(
        "--tokens", action="store_true", dest="each_token", help="with PATH -: show the NLL of each token"
    )
    options.add_json(parser)


def score(parser: Parser, args: argparse.Namespace) -> int:
    """Scores a corpus into one Parquet file; with the path `-`, shows the scores of what standard input holds."""
    if args.paths == ["-"]:
        return _score_input(parser, args)
    if args.out is None or args.each_token or args.json:
        parser.error("--out FILE is needed for a corpus, and --tokens and --json are for the path - alone")
    if args.out.is_dir():
        parser.error(f"--out {args.out} is a folder: name a file in it")
    if args.reference is None and not args.scores:
        parser.error("--reference MODEL or --score NAME=KIND:SOURCE is needed")
    from service.work import local

    request = options.job_request(parser, args)
    with JobBar() as bar:
        job, found = local.score(request, args.out, args.device, bar)
    progress = job.progress
    sys.stdout.writelines(f"{line}\n" for line in left_out(job.corpus))
    if found is not None:
        sys.stdout.writelines(f"warning: {warning}\n" for warning in found.warnings)
        sys.stdout.writelines(f"{line}\n" for line in lacking(found.lacking, found.eligible.documents))
    done, tokens = progress.documents_done, progress.tokens_done
    sys.stdout.write(f"{done:,} documents, {tokens:,} tokens, {progress.rejects:,} rejects in {args.out}\n")
    return 0


def _score_input(parser: Parser, args: argparse.Namespace) -> int:
    """Standard input is one text; or, if each line is a JSON object with the text field, a text a line."""
    if args.out is not None:
        parser.error("--out is for a corpus: the scores of standard input are printed")
    for name in ("id_field", "domain_field", "include", "exclude"):
        if getattr(args, name):
            parser.error(f"--{name.replace('_', '-')} is for a corpus: standard input has texts alone")
    if args.scores:
        parser.error("--score is for a corpus: standard input is scored by --reference alone")
    if args.reference is None:
        parser.error("--reference MODEL is needed")
    from service.work.local import score_texts

    texts = _texts(sys.stdin.buffer.read(), args.text_field)
    found = score_texts(options.score_request(parser, args, texts), args.device)
    if args.json:
        sys.stdout.write(found.model_dump_json() + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in scored_texts(found.documents))
    return 0


def _texts(given: bytes, field: str) -> list[str]:
    """One text; or the field of each line, if the first is a JSON object or one has the field. Raises InputError."""
    try:
        whole = given.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is no UTF-8 (byte {error.start:,}): give text") from None
    if not whole:
        raise InputError("standard input is empty: give a text, or JSON lines")
    lines = enumerate(whole.split("\n"), 1)  # JSON may hold what splitlines takes for an end
    rows = [(number, _row(line)) for number, line in lines if line.strip()]
    if not rows or (rows[0][1] is None and all(row is None or field not in row for _, row in rows)):
        return [whole]
    texts = []
    for number, row in rows:
        text = None if row is None else row.get(field)
        if not isinstance(text, str):
            there = f"; its fields are {', '.join(row)}: choose one with --text-field" if row else ""
            raise InputError(f"standard input: line {number} is no JSON object with a text as its {field!r}{there}")
        texts.append(text)
    return texts


def _row(line: str) -> dict[str, Any] | None:
    """A line that is a JSON object, else None."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def add_train(parser: Parser) -> None:
    """`winnow train`."""
    options.add_corpus(parser)
    options.add_training(parser)
    options.add_recipe(parser)
    options.add_device(parser)
    parser.add_argument("--out", required=True, type=options.target, metavar="DIR", help="folder of the model")


def train(parser: Parser, args: argparse.Namespace) -> int:
    """Trains a reference on a corpus and saves it as a Hugging Face model folder."""
    from service.work import local_train

    corpus, spec = options.training(parser, args)
    preset = spec.preset if args.source is None else None
    recipe = local_train.Recipe(preset, spec.tokens, spec.seed, args.optimizer, args.gpus, args.source)
    with JobBar() as bar:
        trained = local_train.train(corpus, recipe, args.out, args.device, bar, bar.heldout)
    about = (*left_out(trained.corpus), *rows_left_out(trained.rejects), *trained_reference(trained.summary))
    sys.stdout.writelines(f"{line}\n" for line in about)
    sys.stdout.write(f"Trained {preset or args.source} in {args.out}\n")
    return 0


def add_convert(parser: Parser) -> None:
    """`winnow convert`."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of a native state-spaces checkpoint")
    parser.add_argument("--tokenizer", type=Path, metavar="PATH", help="folder or tokenizer.json, if SOURCE has none")
    parser.add_argument("--out", required=True, type=options.target, metavar="DIR", help="folder of the model")


def convert(_parser: Parser, args: argparse.Namespace) -> int:
    """Makes a Hugging Face model folder of a native Mamba-2 checkpoint."""
    from scorer.causal_lm.convert import convert as convert_checkpoint

    convert_checkpoint(args.source, args.out, args.tokenizer)
    sys.stdout.write(f"Converted: {args.out}\n")
    return 0

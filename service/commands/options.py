"""Command line arguments that several commands share, and the requests that are built from them."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from pruner.corpus.listing import shown
from pruner.spec import NAMED_SELECTIONS, CorpusSpec, Criterion, SelectionSpec
from pruner.validation import KEY, explain
from scorer.spec import TrainSpec
from scorer.training.names import OPTIMIZERS, PRESETS
from service.contract.names import DEVICES
from service.contract.schemas import JobRequest, ScoreRequest
from service.contract.scorers import ScorerKind

_TRAIN = TrainSpec()
Request = TypeVar("Request", bound=BaseModel)


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        """Exits with status 2."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def whole_number(text: str) -> int:
    """Parses a whole number, such as 2000000, 2_000_000 or 2e6."""
    try:
        number = float(text) if "e" in text.lower() else int(text)
        if number != int(number):
            raise ValueError
        return int(number)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def device(text: str) -> str:
    """Parses the name of a device. As a type and not as choices: argparse checks a default by its type only."""
    if text not in DEVICES:
        raise argparse.ArgumentTypeError(f"unknown device {text!r}: use auto, cpu or cuda (or set WINNOW_DEVICE)")
    return text


def target(text: str) -> Path:
    """Parses the path of a file or folder to write."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: name a file or a folder")
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is a URL: name a local path, and copy the results from there")
    return Path(text)


def server(text: str) -> str:
    """Parses the URL of a service."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # a wrong port or IPv6 address
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"{text!r} is not the URL of a service: use one such as http://127.0.0.1:8000")
    return text


def corpus_path(text: str) -> str:
    """Parses a path or URL of a corpus. Resolves `..` in local paths, because jobs refuse it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{shown(text)}: the path is not valid UTF-8; rename the file") from None
    local = "://" not in text and ".." in text.split("/")
    return os.path.abspath(os.path.expanduser(text)) if local else text  # noqa: PTH100, PTH111 (links are not resolved)


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Adds the corpus and its fields."""
    parser.add_argument(
        "paths", nargs="+", type=corpus_path, metavar="PATH", help="files, folders, globs or URLs of a corpus"
    )
    parser.add_argument("--text-field", default="text", metavar="NAME", help="field of the text (default: text)")
    parser.add_argument("--id-field", metavar="NAME", help="field of the id, such as id or metadata.id")
    parser.add_argument(
        "--domain-field",
        metavar="NAME",
        help="field of the domain, a key of folder names, @folder or @file; url is reduced to its host",
    )
    add_filters(parser)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Adds which files of the paths are read."""
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="GLOB",
        help="read only files that match, by name, or by path if the glob has a /; repeatable",
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="leave out files that match; repeatable"
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Adds the options of training a reference."""
    parser.add_argument("--preset", choices=PRESETS, help=f"reference to train (default: {_TRAIN.preset})")
    parser.add_argument(
        "--tokens",
        type=whole_number,
        help=f"tokens to train on; each text is read at most four times (default: {_TRAIN.tokens:,})",
    )
    parser.add_argument("--seed", type=int, help=f"seed of the split and the training (default: {_TRAIN.seed})")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds what only `winnow train` can choose."""
    parser.add_argument("--from", dest="source", metavar="MODEL", help="train this GPT-2 or Mamba-2 model on")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, help="default: muon for references, adamw for proxies")
    parser.add_argument("--gpus", type=whole_number, default=1, metavar="N", help="GPUs that share each batch")


def add_reference(parser: argparse.ArgumentParser) -> None:
    """Adds the reference, or the options of training one."""
    parser.add_argument("--reference", metavar="MODEL", help="model folder or hub id (default: train one)")
    add_training(parser)
    parser.add_argument(
        "--fraction", type=float, help=f"share of the documents to train on (default: {_TRAIN.fraction})"
    )


def scorer(text: str) -> tuple[str, dict[str, str]]:
    """Parses a further scorer: NAME=classifier:MODEL, NAME=reference:MODEL or NAME=field:FIELD."""
    name, equals, source = text.partition("=")
    kind, colon, value = source.partition(":")
    if not (name and equals and colon and value and kind in get_args(ScorerKind)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no scorer: use NAME=classifier:MODEL, NAME=reference:MODEL or NAME=field:FIELD"
        )
    return name, {kind: value}


def add_scores(parser: argparse.ArgumentParser) -> None:
    """Adds the further scorers."""
    parser.add_argument(
        "--score",
        action="append",
        type=scorer,
        default=[],
        dest="scores",
        metavar="NAME=KIND:SOURCE",
        help="a further score NAME=classifier:MODEL, NAME=reference:MODEL or NAME=field:FIELD; repeatable",
    )


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """Adds the scoring options."""
    parser.add_argument(
        "--stride", type=whole_number, metavar="TOKENS", help="new tokens per window (default: no overlap)"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "fp8"),
        default="auto",
        help="data type of matrix products; fp8 needs a Hopper GPU (default: %(default)s)",
    )


def add_selections(parser: argparse.ArgumentParser) -> None:
    """Adds the selections: every criterion at every rate."""
    _add_criteria(parser, get_args(Criterion), "criterion, repeatable (default: medium)")


def add_job_selections(parser: argparse.ArgumentParser) -> None:
    """Adds the selections of a job, which presets and files give too."""
    named = "; or a selection by name: " + ", ".join(NAMED_SELECTIONS)
    _add_criteria(parser, (*get_args(Criterion), *NAMED_SELECTIONS), f"criterion, repeatable (default: medium){named}")
    parser.add_argument(
        "--selection",
        action="append",
        type=Path,
        default=[],
        dest="selection_files",
        metavar="FILE.json",
        help="a selection as in the API, in place of the default one; repeatable",
    )


def _add_criteria(parser: argparse.ArgumentParser, choices: tuple[str, ...], about: str) -> None:
    parser.add_argument("--select", action="append", choices=choices, help=about, dest="criteria", metavar="CRITERION")
    parser.add_argument(
        "--rate",
        action="append",
        type=float,
        metavar="R",
        help="share to keep, repeatable (default: 0.5)",
        dest="rates",
    )
    parser.add_argument("--unit", choices=("documents", "tokens"), help="what a rate counts (default: documents)")
    parser.add_argument("--within", choices=("domain",), help="select inside each domain")
    parser.add_argument("--per", choices=("byte",), help="order by NLL per byte; random has no such order")
    parser.add_argument(
        "--random-seed", type=whole_number, metavar="N", help="seed of the random selections (default: 0)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds the device."""
    default = os.environ.get("WINNOW_DEVICE", "auto")
    parser.add_argument(
        "--device",
        type=device,
        default=default,
        metavar="auto|cpu|cuda",
        help="device of the models (default: %(default)s)",
    )


def add_key(parser: argparse.ArgumentParser) -> None:
    """Adds --key."""
    parser.add_argument(
        "--key", default=os.environ.get("WINNOW_KEY"), help="API key (default: the variable WINNOW_KEY)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def job_request(parser: argparse.ArgumentParser, args: argparse.Namespace) -> JobRequest:
    """The job request of the arguments; exits with status 2 if they are wrong or contradict each other."""
    training = _training(args)
    if args.reference is not None and training:
        parser.error(f"--{next(iter(training))} trains a reference and --reference names one: use only one of them")
    body: dict[str, Any] = {
        "corpus": _corpus(args),
        "scoring": {"stride": args.stride, "dtype": args.dtype},
    }
    if args.reference is not None:
        body["reference"] = {"model": args.reference}
    elif training:
        body["reference"] = {"train": training}
    if args.scores:
        names = [name for name, _ in args.scores]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            parser.error(f"--score names {twice} twice: give each scorer a name of its own")
        body["scores"] = dict(args.scores)
    if hasattr(args, "priority"):
        body |= {"priority": args.priority, "name": args.name}
    if hasattr(args, "criteria"):
        body["selections"] = _selections(parser, args)
    elif args.reference is None and args.scores:  # `winnow score` makes no selection: this one uses no reference
        body["selections"] = [{"score": args.scores[0][0]}]
    request = validated(parser, JobRequest, body)
    _warn_of_scoring(request)
    return request


def _warn_of_scoring(request: JobRequest) -> None:
    kinds = {spec.kind for spec in request.scores.values()}
    if request.reference is not None:
        kinds.add("reference")
    if request.scoring.stride is not None and "reference" not in kinds:
        sys.stderr.write("warning: --stride has no effect: it is for references, and this job has none\n")
    if request.scoring.dtype != "auto" and kinds.isdisjoint({"reference", "classifier"}):
        sys.stderr.write("warning: --dtype has no effect: it is for models, and this job has none\n")


def training(parser: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[CorpusSpec, TrainSpec]:
    """The corpus and the training options of `winnow train`; exits with status 2 if they are wrong."""
    if args.source is not None and args.preset is not None:
        parser.error("--preset starts a new model and --from goes on with one: use only one of them")
    if args.gpus < 1:
        parser.error("--gpus must be at least 1")
    return corpus(parser, args), validated(parser, TrainSpec, _training(args))


def corpus(parser: argparse.ArgumentParser, args: argparse.Namespace) -> CorpusSpec:
    """The corpus of the arguments; exits with status 2 if they are wrong."""
    return validated(parser, CorpusSpec, _corpus(args))


def _corpus(args: argparse.Namespace) -> dict[str, Any]:
    names = ("paths", "text_field", "id_field", "domain_field", "include", "exclude")
    return {name: getattr(args, name) for name in names}


def selections(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[SelectionSpec]:
    """The selections of the arguments; exits with status 2 if they are wrong."""
    return [validated(parser, SelectionSpec, body) for body in _selections(parser, args)]


def _selections(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[Any]:
    """Those of files, presets, then every criterion at every rate, each with the options that are for it.

    Exits with status 2 if an option is for none.
    """
    named: list[Any] = [_read_selection(parser, path) for path in getattr(args, "selection_files", ())]
    named += [name for name in dict.fromkeys(args.criteria or ()) if name in NAMED_SELECTIONS]
    criteria = [name for name in args.criteria or () if name not in NAMED_SELECTIONS]
    if named and not criteria and (args.rates is None or args.criteria):
        given = {
            "--rate": args.rates,
            "--unit": args.unit,
            "--within": args.within,
            "--per": args.per,
            "--random-seed": args.random_seed,
        }
        for flag in (flag for flag, value in given.items() if value is not None):
            parser.error(f"{flag} is for --select low, medium, high or random: a named selection or a file has its own")
        return named
    criteria = criteria or ["medium"]
    if args.per is not None and set(criteria) == {"random"}:
        parser.error("--per is for low, medium and high: a random selection is in no order of perplexity")
    if args.random_seed is not None and "random" not in criteria:
        parser.error("--random-seed is for --select random")
    pairs = [(criterion, share) for criterion in criteria for share in args.rates or [0.5]]
    return named + [
        {"criterion": criterion, "rate": share, "unit": args.unit or "documents", "within": args.within}
        | ({"seed": args.random_seed} if criterion == "random" else {"per": args.per})
        for criterion, share in dict.fromkeys(pairs)
    ]


def _read_selection(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    """The JSON object in a file; exits with status 2 if there is none."""
    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except OSError as error:
        parser.error(f"--selection {path}: cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:
        parser.error(f"--selection {path}: cannot be read as JSON ({error})")
    if not isinstance(found, dict):
        parser.error(f"--selection {path}: must hold one JSON object, a selection as in the API")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a key that it has twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _training(args: argparse.Namespace) -> dict[str, Any]:
    """The training options that were given."""
    names = ("preset", "tokens", "fraction", "seed")  # not all commands have all of them
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def score_request(parser: argparse.ArgumentParser, args: argparse.Namespace, texts: list[str]) -> ScoreRequest:
    """The request to score texts at once; exits with status 2 if it is wrong, such as too many texts."""
    scoring = {"stride": args.stride, "dtype": args.dtype}
    body = {"texts": texts, "model": args.reference, "scoring": scoring, "tokens": args.each_token}
    return validated(parser, ScoreRequest, body)


def validated(parser: argparse.ArgumentParser, kind: type[Request], body: dict[str, Any]) -> Request:
    """A request of these fields; exits with status 2 if they are wrong."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [part for part in first["loc"] if isinstance(part, str) and part != KEY]
        parser.error(explain(first, ".".join(parts)))

"""Arguments that commands share, and the job request that they make."""

import argparse
import os
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from pruner.spec import CorpusSpec
from service.contract.schemas import JobRequest, Preset, ScoreRequest, TrainSpec

_PRESETS: tuple[Preset, ...] = ("tiny", "mamba2-130m", "gpt2-124m")
_TRAIN = TrainSpec()
Request = TypeVar("Request", bound=BaseModel)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that says what to do, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def rate(text: str) -> float:
    """A share in (0, 1]."""
    value = _float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate: give a number over 0 and at most 1")
    return value


def fraction(text: str) -> float:
    """A share in (0, 1)."""
    value = _float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no fraction: give a number over 0 and under 1")
    return value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def count(text: str) -> int:
    """A number over 0; 2e6 and 2_000_000 are the same."""
    try:
        value = int(float(text)) if "e" in text.lower() else int(text)
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number over 0")
    return value


def device(text: str) -> str:
    """The name of a kind of device; argparse checks a default by its type alone."""
    if text not in ("auto", "cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text!r} is none: give auto, cpu or cuda, here or as WINNOW_DEVICE")
    return text


def target(text: str) -> Path:
    """A file or folder to write."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: name a file or a folder")
    return Path(text)


def server(text: str) -> str:
    """The address of a service."""
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # no port, or no address in brackets
        known = False
    if not known:
        raise argparse.ArgumentTypeError(f"{text!r} is no address of a service: give one like http://127.0.0.1:8000")
    return text


def corpus_path(text: str) -> str:
    """A path or URL of a corpus; in a local one `..` is followed, as no job follows it."""
    local = "://" not in text and ".." in text.split("/")
    return os.path.abspath(os.path.expanduser(text)) if local else text  # noqa: PTH100, PTH111 (links stay)


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Where the documents are."""
    parser.add_argument(
        "paths", nargs="+", type=corpus_path, metavar="PATH", help="files, folders, globs or URLs of .parquet or .jsonl"
    )
    parser.add_argument("--text-field", default="text", metavar="NAME", help="field of the text (default: text)")
    parser.add_argument("--id-field", metavar="NAME", help="field of the id")
    parser.add_argument("--domain-field", metavar="NAME", help="field of the domain; url is reduced to its host")


def add_training(parser: argparse.ArgumentParser) -> None:
    """How a reference is trained."""
    parser.add_argument("--preset", choices=_PRESETS, help=f"reference to train (default: {_TRAIN.preset})")
    parser.add_argument(
        "--tokens", type=count, help=f"tokens to train on, of a text four times at most (default: {_TRAIN.tokens:,})"
    )
    parser.add_argument("--seed", type=int, help=f"of the split and the training (default: {_TRAIN.seed})")


def add_reference(parser: argparse.ArgumentParser) -> None:
    """Which reference scores, or how one is trained for it."""
    parser.add_argument("--reference", metavar="MODEL", help="model folder or hub id; without it one is trained")
    add_training(parser)
    parser.add_argument(
        "--fraction", type=fraction, help=f"share of the documents that trains (default: {_TRAIN.fraction})"
    )


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """How documents are scored."""
    parser.add_argument("--stride", type=count, metavar="TOKENS", help="new tokens a window (default: no overlap)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of matrix products")


def add_selections(parser: argparse.ArgumentParser) -> None:
    """Which selections are made: every criterion at every rate."""
    choices = ("low", "medium", "high")
    parser.add_argument(
        "--select", action="append", choices=choices, help="criterion, repeatable (default: medium)", dest="criteria"
    )
    parser.add_argument(
        "--rate", action="append", type=rate, help="share to keep, repeatable (default: 0.5)", dest="rates"
    )
    parser.add_argument("--unit", choices=("documents", "tokens"), default="documents", help="what a rate counts")
    parser.add_argument("--within", choices=("domain",), help="select inside each domain")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where a reference runs."""
    default = os.environ.get("WINNOW_DEVICE", "auto")
    parser.add_argument("--device", type=device, default=default, metavar="auto|cpu|cuda", help="default: %(default)s")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Output for scripts."""
    parser.add_argument("--json", action="store_true", help="print JSON for a script")


def job_request(parser: argparse.ArgumentParser, args: argparse.Namespace) -> JobRequest:
    """The request that the arguments make; ends the program where they cannot go together."""
    training = _training(args)
    if args.reference is not None and training:
        parser.error(f"--{next(iter(training))} trains a reference and --reference names one: give either")
    body: dict[str, Any] = {
        "corpus": _corpus(args),
        "reference": {"train": training} if args.reference is None else {"model": args.reference},
        "scoring": {"stride": args.stride, "dtype": args.dtype},
    }
    if hasattr(args, "priority"):
        body["priority"] = args.priority
    if hasattr(args, "criteria"):
        pairs = [(criterion, share) for criterion in args.criteria or ["medium"] for share in args.rates or [0.5]]
        body["selections"] = [
            {"criterion": criterion, "rate": share, "unit": args.unit, "within": args.within}
            for criterion, share in dict.fromkeys(pairs)
        ]
    return _valid(parser, JobRequest, body)


def training(parser: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[CorpusSpec, TrainSpec]:
    """What `winnow train` is to read and to train; ends the program where it cannot be."""
    return _valid(parser, CorpusSpec, _corpus(args)), _valid(parser, TrainSpec, _training(args))


def _corpus(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("paths", "text_field", "id_field", "domain_field")}


def _training(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of how a reference is trained."""
    names = ("preset", "tokens", "fraction", "seed")  # of which a command may not have all
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def score_request(parser: argparse.ArgumentParser, args: argparse.Namespace, texts: list[str]) -> ScoreRequest:
    """The request to score texts now; ends the program where there are too many."""
    scoring = {"stride": args.stride, "dtype": args.dtype}
    body = {"texts": texts, "model": args.reference, "scoring": scoring, "tokens": args.each_token}
    return _valid(parser, ScoreRequest, body)


def _valid(parser: argparse.ArgumentParser, kind: type[Request], body: dict[str, Any]) -> Request:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        parser.error(f"{field}: {first['msg']}".removeprefix(": ").replace("Value error, ", ""))

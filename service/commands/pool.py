"""The commands that run the service: serve and worker."""

import argparse
import logging

from pydantic import ValidationError

from service.commands.options import Parser, count
from service.settings import STAGES, Settings


def _add_common(parser: Parser) -> None:
    parser.add_argument("--workspace", metavar="DIR", help="folder or URL of all that must not be lost")
    parser.add_argument("--redis", metavar="URL", help="redis://, rediss:// or unix:// address")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where references run (default: auto)")
    parser.add_argument("--lease-seconds", type=float, metavar="S", help="silence that loses a task (default: 15)")


def add_serve(parser: Parser) -> None:
    """`winnow serve`."""
    _add_common(parser)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one (default: 8000)")
    parser.add_argument("--workers", type=int, metavar="N", help="scoring workers (default: one a GPU, else one)")
    for name, what in (("jobs", "unfinished jobs"), ("shards", "shards to score"), ("bytes", "bytes of text to score")):
        parser.add_argument(f"--quota-{name}", type=count, metavar="N", help=f"{what} that one owner may have")


def serve(parser: Parser, args: argparse.Namespace) -> int:
    """Runs the API, its workers and, without --redis, a private Redis."""
    from service.supervisor import serve as run

    run(_settings(parser, args))
    return 0


def add_worker(parser: Parser) -> None:
    """`winnow worker`."""
    _add_common(parser)
    parser.add_argument(
        "--stages", metavar="LIST", help=f"what to do, such as plan,select (default: {','.join(STAGES)})"
    )


def worker(parser: Parser, args: argparse.Namespace) -> int:
    """Runs one more worker of a service's pool."""
    from service.worker import run

    settings = _settings(parser, args)
    if settings.redis is None:
        parser.error("--redis (or WINNOW_REDIS): must be given, as the service's workers share it")
    run(settings)
    return 0


def _settings(parser: Parser, args: argparse.Namespace) -> Settings:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    given = {name: value for name, value in vars(args).items() if name in Settings.model_fields and value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        what = "must be given" if first["type"] == "missing" else first["msg"].lower()
        parser.error(f"--{name.replace('_', '-')} (or WINNOW_{name.upper()}): {what}")

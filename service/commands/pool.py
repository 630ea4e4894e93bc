"""The commands that run the service: serve, worker and pool."""

import argparse
import logging

from pydantic import ValidationError

from service.commands.options import Parser
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
    parser.add_argument(
        "--corpus-root", action="append", metavar="PLACE", help="folder or URL of corpora, repeatable (default: all)"
    )
    parser.add_argument(
        "--model-root", action="append", metavar="DIR", help="folder of reference models, repeatable (default: all)"
    )
    parser.add_argument(
        "--model", action="append", metavar="NAME=SOURCE", help="model folder or hub id that jobs may name, repeatable"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="scoring workers (default: one a GPU, else one)")


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
    parser.add_argument("--alive-file", metavar="FILE", help="touched while the worker does not hang, for probes")


def worker(parser: Parser, args: argparse.Namespace) -> int:
    """Runs one more worker of a service's pool."""
    from service.worker import run

    settings = _settings(parser, args)
    if settings.redis is None:
        parser.error("--redis (or WINNOW_REDIS): must be given, as the service's workers share it")
    run(settings)
    return 0


def add_pool(parser: Parser) -> None:
    """`winnow pool`."""
    _add_common(parser)
    parser.add_argument("--ray", metavar="ADDRESS", help="the cluster, as host:port of its head, or auto")
    parser.add_argument("--workers", type=int, metavar="N", help="the most workers, each with a GPU if there are any")


def pool(parser: Parser, args: argparse.Namespace) -> int:
    """Keeps workers of a service's pool on a Ray cluster."""
    from service.ray_pool import run

    settings = _settings(parser, args)
    for name in ("ray", "redis", "workers"):
        if getattr(settings, name) is None:
            parser.error(f"--{name} (or WINNOW_{name.upper()}): must be given")
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
        what = "must be given" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        parser.error(f"--{name.replace('_', '-')} (or WINNOW_{name.upper()}): {what}")

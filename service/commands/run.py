"""The commands that run the service: serve, worker and pool."""

import argparse
import logging
import sys
from collections.abc import Callable

from pydantic import ValidationError
from redis import RedisError

from pruner.errors import InputError
from service.commands.options import Parser, count
from service.run.settings import STAGES, Keep, Settings


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
    _add_keep(parser)
    for name, what in (("jobs", "unfinished jobs"), ("shards", "shards to score"), ("bytes", "bytes of text to score")):
        parser.add_argument(f"--quota-{name}", type=count, metavar="N", help=f"{what} that one owner may have")


def serve(parser: Parser, args: argparse.Namespace) -> int:
    """Runs the API, its workers and, without --redis, a private Redis."""
    from service.run.supervisor import serve as run

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
    from service.work.worker import run

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
    from service.run.ray_pool import run

    settings = _settings(parser, args)
    for name in ("ray", "redis", "workers"):
        if getattr(settings, name) is None:
            parser.error(f"--{name} (or WINNOW_{name.upper()}): must be given")
    run(settings)
    return 0


def add_clean(parser: Parser) -> None:
    """`winnow clean`."""
    parser.add_argument("--workspace", metavar="DIR", help="folder or URL of the jobs and scores")
    parser.add_argument("--redis", metavar="URL", help="the Redis of its service, unless that is a private one")
    _add_keep(parser)


def clean(parser: Parser, args: argparse.Namespace) -> int:
    """Removes ended jobs and scores, and prints how much."""
    from service.queue.leases import Queue, connect, without_password
    from service.run import retention
    from service.run.redis_server import address
    from service.run.supervisor import redis_folder
    from service.store.workspace import Workspace

    settings = _settings(parser, args)
    if settings.keep == Keep():
        parser.error("--keep-days or --keep-gib must be given, as nothing else says what is to go")
    workspace = Workspace(settings.workspace)
    if not workspace.storage.exists("workspace.json"):
        raise InputError(
            f"there is no workspace in {settings.workspace}: give the folder that `winnow serve` was given"
        )
    forget: Callable[[str], None] = _nobody_knows
    try:
        queue = Queue(connect(settings.redis or address(redis_folder(workspace))), workspace.id)
        queue.epoch()
        forget = queue.forget
    except (RedisError, ValueError) as error:
        if settings.redis is not None:
            raise InputError(f"--redis {without_password(settings.redis)}: {error}") from None
    removed = retention.clean(workspace, settings.keep, forget)
    gone = f"removed {removed.jobs:,} jobs and {removed.scores:,} score files, {removed.bytes / (1 << 30):,.3f} GiB"
    sys.stdout.write(f"{gone}; {removed.left / (1 << 30):,.3f} GiB are left\n")
    return 0


def _nobody_knows(_job: str) -> None:
    """No service runs here; the next one to start reads the workspace."""


def _add_keep(parser: Parser) -> None:
    parser.add_argument("--keep-days", type=float, metavar="N", help="remove ended jobs and scores of more days")
    parser.add_argument("--keep-gib", type=float, metavar="N", help="remove the oldest of them until N GiB are left")


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

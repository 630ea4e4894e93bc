"""The commands that run the service: serve, worker, pool, clean. Their flags are fields of `Settings`."""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import get_origin

from pydantic import ValidationError
from redis import RedisError

from pruner.errors import InputError
from pruner.validation import explain
from service.commands.options import Parser
from service.run.settings import RetentionPolicy, Settings

_COMMON = ("workspace", "redis", "device", "lease_seconds")
_RETENTION = ("keep_days", "keep_gib")
_QUOTAS = ("quota_jobs", "quota_shards", "quota_bytes")


def add_serve(parser: Parser) -> None:
    """`winnow serve`."""
    _add_flags(parser, *_COMMON, "host", "port", "corpus_root", "export_root", "model_root", "model", "workers")
    _add_flags(parser, *_RETENTION, *_QUOTAS)


def serve(parser: Parser, args: argparse.Namespace) -> int:
    """Runs the API, its workers and, without --redis, a private Redis."""
    from service.run.supervisor import serve as run

    run(_settings(parser, args))
    return 0


def add_worker(parser: Parser) -> None:
    """`winnow worker`."""
    _add_flags(parser, *_COMMON, "resources", "alive_file")


def worker(parser: Parser, args: argparse.Namespace) -> int:
    """Runs one more worker of a service's pool."""
    from service.run.worker_process import run

    run(_settings(parser, args, "redis"))
    return 0


def add_pool(parser: Parser) -> None:
    """`winnow pool`."""
    _add_flags(parser, *_COMMON, "ray", "workers")


def pool(parser: Parser, args: argparse.Namespace) -> int:
    """Keeps workers of a service's pool on a Ray cluster."""
    from service.run.ray_pool import run

    run(_settings(parser, args, "ray", "redis", "workers"))
    return 0


def add_clean(parser: Parser) -> None:
    """`winnow clean`."""
    _add_flags(parser, "workspace", "redis", *_RETENTION)


def clean(parser: Parser, args: argparse.Namespace) -> int:
    """Removes ended jobs and scores, and prints how many."""
    from service.queue.leases import Queue, connect, without_password
    from service.run import retention
    from service.run.redis_server import address
    from service.run.supervisor import redis_folder
    from service.store.workspace import Workspace

    settings = _settings(parser, args)
    if settings.retention == RetentionPolicy():
        parser.error("--keep-days or --keep-gib must be given")
    workspace = Workspace(settings.workspace)
    if not workspace.storage.exists("workspace.json"):
        raise InputError(f"no workspace in {settings.workspace}: use the folder that `winnow serve` was started with")
    forget: Callable[[str], None] = _no_service
    try:
        queue = Queue(connect(settings.redis or address(redis_folder(workspace))), workspace.id)
        queue.epoch()
        forget = queue.forget
    except RedisError as error:
        if settings.redis is not None:
            raise InputError(f"--redis {without_password(settings.redis)}: {error}") from None
    removed = retention.clean(workspace, settings.retention, forget)
    gone = f"removed {removed.jobs:,} jobs and {removed.scores:,} score files, {removed.bytes / (1 << 30):,.3f} GiB"
    sys.stdout.write(f"{gone}; {removed.left / (1 << 30):,.3f} GiB are left\n")
    return 0


def _no_service(_job: str) -> None:
    """Nothing to tell a queue: without a running service, the next one to start reads the workspace."""


def _add_flags(parser: Parser, *names: str) -> None:
    """A flag for each of these fields of Settings. Values stay text: Settings parses and checks them."""
    for name in names:
        field = Settings.model_fields[name]
        help_text = (field.description or "").removesuffix(".").replace("%", "%%")
        if field.default not in (None, ()) and not field.is_required():
            default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
            help_text += f" (default: {default})"
        repeatable = get_origin(field.annotation) is tuple and name != "resources"
        parser.add_argument(_flag(name), action="append" if repeatable else "store", help=help_text)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _settings(parser: Parser, args: argparse.Namespace, *required: str) -> Settings:
    """The settings of flags and environment; ends the program if one is wrong or a required one is missing."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    given = {name: value for name, value in vars(args).items() if name in Settings.model_fields and value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        parser.error(explain(first, _described(str(first["loc"][0]))))
    for name in required:
        if getattr(settings, name) is None:
            parser.error(f"{_described(name)} must be given")
    return settings


def _described(name: str) -> str:
    return f"{_flag(name)} (or WINNOW_{name.upper()})"

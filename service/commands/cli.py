"""The command `winnow`. Exit status: 0 done, 1 error in the input or the service, 2 wrong argument, 130 Ctrl-C."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

import service
from pruner.errors import InputError
from scorer.errors import BadInstallation, BadReference, OutOfMemory, ProcessDied


class _Command(NamedTuple):
    module: str  # module in service.commands with the functions `<name>` and `add_<name>` (adds its arguments)
    help: str
    runs_models: bool = False


COMMANDS = {
    "serve": _Command("run", "run the service: the API, its workers and a private Redis", runs_models=True),
    "worker": _Command("run", "run one more worker of a pool", runs_models=True),
    "pool": _Command("run", "run the workers of a pool on a Ray cluster", runs_models=True),
    "keys": _Command("keys", "make, list and revoke API keys"),
    "clean": _Command("run", "remove old jobs and scores, by age or total size"),
    "check": _Command("check", "look at a corpus: its files, fields and first documents"),
    "prune": _Command("local", "prune a corpus on this machine, without a service", runs_models=True),
    "select": _Command("select", "select from score tables, without a corpus, a model or a service"),
    "export": _Command("export", "write the kept documents of a selection as corpus files"),
    "ablate": _Command("ablate", "train small models on several selections, and compare them", runs_models=True),
    "train": _Command("local", "train a reference", runs_models=True),
    "score": _Command("local", "score a corpus", runs_models=True),
    "convert": _Command("local", "convert a native Mamba-2 checkpoint to a model folder", runs_models=True),
    "submit": _Command("remote", "submit a job to a service"),
    "status": _Command("remote", "show a job, or list the newest jobs"),
    "watch": _Command("remote", "follow a job until it ends"),
    "cancel": _Command("remote", "cancel a job"),
    "download": _Command("remote", "save the manifests, rejects and report of a job"),
    "report": _Command("remote", "save the report of a job as an HTML file, and its plots"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; an error becomes one line on standard error."""
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        _interrupted()
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Python before 3.12 wraps what `__set_name__` raises
            _interrupted()
        return _report(error)


def _run(given: list[str]) -> int:
    from scorer.kernels_check import check_kernels  # here, as all imports that take time: Ctrl-C is handled in them
    from service.commands.options import Parser

    parser = Parser(prog="winnow", description="Prune pretraining corpora by the perplexity of a small language model.")
    parser.add_argument("--version", action="version", version=f"winnow {service.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    chosen = next((word for word in given if not word.startswith("-")), None)
    run: Callable[..., int] | None = None
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=f"{command.help[0].upper()}{command.help[1:]}.")
        if name == chosen:  # only this module is imported, so that help is fast
            module = importlib.import_module(f"service.commands.{command.module}")
            getattr(module, f"add_{name}")(sub)
            run, chosen_parser = getattr(module, name), sub
    args = parser.parse_args(given)
    if run is None:
        parser.error("give a command")
    if COMMANDS[args.command].runs_models:
        check_kernels()
    return run(chosen_parser, args)


def _report(error: Exception) -> int:
    from service.client.errors import ClientError

    if isinstance(error, (InputError, BadReference, BadInstallation, OutOfMemory, ProcessDied, ClientError)):
        return _fail(str(error))
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of a pipe has ended
        return 1
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}")
    if os.environ.get("WINNOW_DEBUG"):
        raise error
    return _fail(f"unexpected {type(error).__name__}: {error}; set WINNOW_DEBUG=1 for the traceback, and report it")


def _interrupted() -> NoReturn:
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(130)  # a normal exit can abort in a library's running thread


def _fail(message: str) -> int:
    sys.stderr.write(f"winnow: {' '.join(message.split())}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

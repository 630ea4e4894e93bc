"""`winnow ablate` without a server: compares selections of a folder that `winnow prune` filled, resumable."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from pruner.ablation.result import AblationResult
from pruner.errors import InputError
from scorer.engine.model_loader import ModelLoader
from service.contract.ablations import Ablation, AblationOptions
from service.contract.names import Device
from service.jobs.ablations import show_ablation, want
from service.jobs.lifecycle import Lifecycle
from service.kinds import ablation
from service.kinds.ablation_end import runs_path
from service.kinds.ablation_plan import find_plan
from service.kinds.job_files import JobFiles
from service.kinds.node import Busy, Task
from service.queue.tasks import JobState
from service.store.records import WantedAblation
from service.store.workspace import Workspace
from service.work import results
from service.work.local import ended_jobs, is_copy, pruned_workspace, run_job

RUNS_FILE = "runs.parquet"
_LOOK_SECONDS = 0.5


def ablate(
    source: Path, options: AblationOptions, out: Path, device: Device, on_progress: Callable[[Ablation], None]
) -> AblationResult:
    """Compares selections of the results in `source`, and writes the table of runs into `out`.

    A killed ablation with the same options goes on. On a CPU as many runs go on at a time as there are cores.
    `on_progress` is called now and then, and may raise to end the ablation. Raises InputError, NoHeldOut for one
    without held-out text, and BadReference.
    """
    with pruned_workspace(source) as workspace:
        files = _find(workspace, source, options.selection)
        wanted = want(files, options)
        workspace.unwant_exports(files.record)  # this command makes one ablation
        workspace.unwant_ablations(files.record)
        workspace.want_ablation(files.record.id, wanted)
        fresh = JobFiles(workspace, files.record)
        with _helpers(fresh, wanted, device) as help_runs:

            def tell(_lifecycle: Lifecycle, state: JobState | None) -> None:
                shown = show_ablation(fresh, wanted, state, None)
                if shown.progress.runs_total is not None:
                    help_runs()
                on_progress(shown)

            run_job(fresh, device, tell)
        made = ablation.find(fresh, wanted)
        if made is None:
            raise InputError(f"{source}: the ablation was not made: run `winnow prune` again")
        out.mkdir(parents=True, exist_ok=True)
        table = workspace.storage.read_bytes(runs_path(fresh, wanted))
        (out / RUNS_FILE).write_bytes(table)
        return made


def _find(workspace: Workspace, source: Path, selections: list[str]) -> JobFiles:
    """The job whose results lie in `source` and that has the selections. Raises InputError."""
    there = set[str]()
    for files in ended_jobs(workspace):
        names = {spec.id for spec in files.selections if is_copy(source / results.manifest_file(spec.id), files, spec)}
        if names.issuperset(selections):
            return files
        there |= names
    missing = [name for name in selections if name not in there]
    if not missing:
        raise InputError(f"{source}: {', '.join(selections)} are of different runs of `winnow prune`: make them in one")
    raise InputError(f"{source}: has no selection {missing[0]}; it has {', '.join(sorted(there))}")


class _Helper(NamedTuple):
    """What a helper process works on."""

    workspace: str  # its folder
    job: str
    ablation: str
    device: Device


@contextmanager
def _helpers(files: JobFiles, wanted: WantedAblation, device: Device) -> Iterator[Callable[[], None]]:
    """Processes that make runs beside this one, on a CPU of several cores. The function starts them, once."""
    processes: list[BaseProcess] = []

    def start() -> None:
        plan = find_plan(files, wanted)
        if processes or plan is None or plan.settings.device != "cpu":
            return
        told = _Helper(files.workspace.storage.url, files.record.id, wanted.id, device)
        context = multiprocessing.get_context("spawn")
        # Ctrl-C reaches all processes of a terminal: helpers inherit that it is ignored, as this process ends them.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for _ in range(min(len(os.sched_getaffinity(0)) - 1, len(plan.runs) - 1)):
                process = context.Process(target=_help, args=(told,), daemon=True)
                process.start()
                processes.append(process)
        finally:
            signal.signal(signal.SIGINT, before)

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.join()


def _help(told: _Helper) -> None:
    """Makes runs of an ablation, from the last one on, until there is none left that no other process makes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    workspace, models = Workspace(told.workspace), ModelLoader(told.device)
    record = workspace.job(told.job)
    if record is None:
        return
    with suppress(Exception):  # the parent meets the same, and says so
        while True:
            files = JobFiles(workspace, record)
            wanted = next(each for each in files.ablations if each.id == told.ablation)
            missing = [
                (node, part)
                for node in ablation.nodes(files)
                if node.name.startswith(ablation.node_name(wanted, "runs-"))
                for part in workspace.storage.missing(node.paths)
            ]
            for node, part in reversed(missing):
                with suppress(Busy):
                    ablation.run(Task(files, node, part, _Silent(), models))
            time.sleep(_LOOK_SECONDS)  # others make the rest, or more runs are decided


class _Silent:
    """No signs of life: the process holds no lease."""

    def __call__(
        self, documents: int = 0, tokens: int = 0, tokens_total: int = 0, files: int = 0, files_total: int = 0
    ) -> None:
        """As Beat."""

    def show_bins(self, bins: Mapping[int, tuple[int, int]]) -> None:
        """As Beat."""

    def allow(self, seconds: float) -> AbstractContextManager[None]:
        """As Beat."""
        return nullcontext()


def _end_with(sentinel: int) -> None:
    """Ends this process when its parent has ended, even if it was killed."""
    wait([sentinel])
    os._exit(1)

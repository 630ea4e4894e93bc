"""Kind `model`: the models of a job, a node of one part for each. Named ones are identified, one may be trained."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pruner.corpus.sample import training_texts
from pruner.corpus.train_split import Split
from pruner.tables.storage import Storage
from scorer.fingerprint import tokens_sha256
from scorer.spec import TrainSpec
from scorer.training.summary import TrainingSummary
from service.contract.permissions import Access
from service.contract.scorers import ScorerKind
from service.kinds.job_files import JobFiles
from service.kinds.model_files import training_folder
from service.kinds.node import Busy, Counts, Node, Task
from service.store.records import ModelRecord

_SILENCE_SECONDS = 600.0  # while torch and the model are loaded or compiled, or weights are hashed or copied


def nodes(job: JobFiles) -> Iterator[Node]:
    """The reference, which can be told when the corpus is planned if it is to be trained; the further models."""
    if job.record.request.model is not None:
        yield Node("model", "light", "planning", [job.model_path or ""])
    elif job.model_path is not None:
        yield Node("model", "gpu", "training", [job.model_path], needs=("corpus",))
    for name, spec in job.scorers.items():
        if spec.model is not None:
            yield Node(node_name(name), "light", "planning", [job.scorer_model_path(name)])


def node_name(scorer: str) -> str:
    """The node of the model of a further scorer."""
    return f"model/{scorer}"


def run(task: Task) -> Counts:
    """Identifies or trains a model. Raises BadReference, Busy."""
    record, scorer = task.job.record, task.node.which
    request = record.request
    if scorer:
        spec = task.job.scorers[scorer]
        with task.beat.allow(_SILENCE_SECONDS):
            found = identify(record.access.source(spec.model or "", scorer), record.access, scorer, spec.kind)
        task.job.workspace.records.write(task.path, found)
    elif request.model is not None:
        with task.beat.allow(_SILENCE_SECONDS):
            found = identify(record.access.source(request.model), record.access)
        task.job.workspace.records.write(task.path, found)
    elif request.train is not None:
        _train(task, request.train)
    return Counts(fresh=True)


def identify(
    model: str, access: Access | None = None, scorer: str | None = None, kind: ScorerKind = "reference"
) -> ModelRecord:
    """The identity of a named model that can score: the reference, or that of a further scorer. Raises BadReference."""
    from scorer.causal_lm.reference import inspect, resolve
    from scorer.classifier.classifier import inspect as inspect_classifier

    folder = resolve(model, kind)
    if access is not None:
        access.check_model(folder, scorer)
    found = inspect_classifier(folder) if kind == "classifier" else inspect(folder)
    return ModelRecord(
        source=model,
        trained=False,
        sha256=found.sha256,
        tokenizer_sha256=found.tokenizer_sha256,
        tokens_sha256=tokens_sha256(folder) if kind == "reference" else None,
    )


def _train(task: Task, spec: TrainSpec) -> None:
    """Trains from where an earlier attempt was, unless the reference is there."""
    job, folder = task.job, task.path.rpartition("/")[0]
    if task.storage.exists(task.path):
        return
    name = folder.rpartition("/")[2]
    with training_folder(task.storage, name) as work:
        if task.storage.exists(task.path):  # trained by the process that had the lock before
            return
        with task.beat.allow(_SILENCE_SECONDS):
            device = task.models.device()
            from scorer.causal_lm.fp8 import check_device
            from scorer.training.train import most_processes, train

            if job.record.request.scoring.dtype == "fp8":
                check_device(device)  # before a long training whose reference could not score
        done, total = 0, spec.tokens

        def texts() -> Iterator[str]:
            corpus, roots = job.record.request.corpus, job.record.access.roots
            return training_texts(job.plan, corpus, Split(spec.seed, spec.fraction), spec.tokens, tell, roots)

        def tell() -> None:
            task.beat(tokens=done, tokens_total=total)

        def on_progress(tokens: int, tokens_total: int, loss: float | None, _heldout: float | None) -> None:
            nonlocal done, total
            done, total = tokens, tokens_total
            if loss is not None:
                compiling.close()
            tell()

        out = work / "reference"
        most = most_processes(spec.preset, spec.tokens) if device.startswith("cuda") else 1
        with _further_gpus(task, work, most - 1, tell) as gpus, ExitStack() as compiling:
            compiling.enter_context(task.beat.allow(_SILENCE_SECONDS))
            given = spec.preset, spec.tokens, spec.seed, out, work / "state", device, on_progress
            summary = train(texts, *given, processes=1 + len(gpus), gpus=gpus)
        with task.beat.allow(_SILENCE_SECONDS):
            _publish(task, folder, out, summary)


@contextmanager
def _further_gpus(task: Task, work: Path, most: int, beat: Callable[[], None]) -> Iterator[list[str]]:
    """The GPUs beside the worker's own: idle ones where a training begins, the same number where it goes on."""
    pool = task.gpus
    if pool is None:
        yield []
        return
    number = work / "further-gpus"
    kept = int(number.read_text()) if number.exists() else None
    # Weights depend on the number of GPUs: a training that began with more than this host has begins anew.
    if kept is not None and kept > len(pool.others):
        shutil.rmtree(work / "state", ignore_errors=True)
        kept = None
    with ExitStack() as stack:
        try:
            gpus = stack.enter_context(pool.idle(most) if kept is None else pool.exactly(kept, beat))
        except BlockingIOError:
            raise Busy from None
        number.write_text(str(len(gpus)))
        yield gpus


def _publish(task: Task, folder: str, trained: Path, summary: TrainingSummary) -> None:
    """Copies a trained reference into the workspace, under a name of its content; the record is written last."""
    found = identify(str(trained))
    source = f"{folder}/{found.sha256[:16]}"
    local = Storage(str(trained))
    for name in local.list(""):
        local.copy(name, task.storage, f"{source}/{name}")
    record = found.model_copy(update={"source": source, "trained": True, "training": summary})
    task.job.workspace.records.write_new(task.path, record)

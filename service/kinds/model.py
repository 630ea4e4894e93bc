"""Kind `model`: the reference of a job, one part. A named one is identified, another is trained on the split."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pruner.corpus.sample import training_texts
from pruner.tables.lock import exclusive
from pruner.tables.storage import Storage
from scorer.training.summary import TrainingSummary
from service.contract.permissions import Access
from service.kinds.job_files import JobFiles
from service.kinds.model_files import cache_folder
from service.kinds.node import Busy, Counts, Node, Task
from service.store.records import ModelRecord

_SILENCE_SECONDS = 600.0  # while torch and the model are loaded or compiled, or weights are hashed or copied


def nodes(job: JobFiles) -> Iterator[Node]:
    """The reference; one to be trained can be told when the corpus is planned."""
    if job.record.request.reference.train is None:
        yield Node("model", "light", "planning", [job.model_path or ""])
    elif job.model_path is not None:
        yield Node("model", "gpu", "training", [job.model_path], needs=("corpus",))


def run(task: Task) -> Counts:
    """Identifies or trains the reference. Raises BadReference, Busy."""
    record = task.job.record
    if record.request.reference.model is not None:
        with task.beat.allow(_SILENCE_SECONDS):
            found = identify(record.access.model or record.request.reference.model, record.access)
        task.job.workspace.records.write(task.path, found)
    else:
        _train(task)
    return Counts(fresh=True)


def identify(model: str, access: Access | None = None) -> ModelRecord:
    """The identity of a named reference that can score. Raises BadReference."""
    from scorer.causal_lm.reference import inspect, resolve

    folder = resolve(model)
    if access is not None:
        access.check_model(folder)
    found = inspect(folder)
    return ModelRecord(source=model, trained=False, sha256=found.sha256, tokenizer_sha256=found.tokenizer_sha256)


def _train(task: Task) -> None:
    """Trains from where an earlier attempt was, unless the reference is there."""
    job, spec = task.job, task.job.record.request.reference.train
    folder = task.path.rpartition("/")[0]
    if spec is None or task.storage.exists(task.path):
        return
    name = folder.rpartition("/")[2]
    work = task.storage.local(f"training/{name}") or cache_folder() / "training" / name
    with _locked(work):
        if task.storage.exists(task.path):  # trained by the process that had the lock before
            return
        with task.beat.allow(_SILENCE_SECONDS):
            device = task.models.device()
            from scorer.training.train import train

        done, total = 0, spec.tokens

        def texts() -> Iterator[str]:
            corpus, roots = job.record.request.corpus, job.record.access.roots
            return training_texts(job.plan, corpus, spec.tokens, spec.fraction, spec.seed, tell, roots)

        def tell() -> None:
            task.beat(tokens=done, tokens_total=total)

        def on_progress(tokens: int, tokens_total: int, loss: float | None, _heldout: float | None) -> None:
            nonlocal done, total
            done, total = tokens, tokens_total
            if loss is not None:
                compiling.close()
            tell()

        out = work / "reference"
        with ExitStack() as compiling:
            compiling.enter_context(task.beat.allow(_SILENCE_SECONDS))
            summary = train(texts, spec.preset, spec.tokens, spec.seed, out, work / "state", device, on_progress)
        with task.beat.allow(_SILENCE_SECONDS):
            _publish(task, folder, out, summary)


def _publish(task: Task, folder: str, trained: Path, summary: TrainingSummary) -> None:
    """Copies a trained reference into the workspace, under a name of its content; the record is written last."""
    found = identify(str(trained))
    source = f"{folder}/{found.sha256[:16]}"
    local = Storage(str(trained))
    for name in local.list(""):
        local.copy(name, task.storage, f"{source}/{name}")
    record = found.model_copy(update={"source": source, "trained": True, "training": summary})
    task.job.workspace.records.write_new(task.path, record)


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Holds a training's folder, and removes it when the training has ended. Raises Busy while another has it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(work / "lock"))
        except BlockingIOError:
            raise Busy from None
        yield
        shutil.rmtree(work)

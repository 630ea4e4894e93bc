"""The stages of a job, each over files of the workspace alone: run by the workers and by `winnow prune` alike.

Each may be run again at any time, and by two workers at once: what it writes appears whole, and says the same.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from pruner.corpus import plan as plans
from pruner.corpus import sandbox as apart
from pruner.corpus.sample import training_texts
from pruner.errors import InputError
from pruner.tables import job_results as results
from pruner.tables.score_table import Split
from pruner.tables.shard_scores import read_summary
from scorer.errors import OutOfMemory
from service.contract.permissions import Access
from service.jobs.steps import TRAINER, provenance, score_paths
from service.kinds import shard_scoring as shards
from service.kinds.model_loader import References, cache_folder
from service.kinds.shard_scoring import Beat, Begun, plan_of, reference_of, shard_of
from service.store.workspace import JobRecord, PlanRecord, ReferenceRecord, Workspace, digest


class Busy(Exception):
    """Another process of this machine trains the same reference: look again later."""


class ScoresGone(Exception):
    """A shard's scores, which were there, have been removed: it is to be scored again."""


class Counts(NamedTuple):
    """What a task adds to its job: documents (with the rejects), tokens, rejects; `fresh` if it was not there."""

    documents: int = 0
    tokens: int = 0
    rejects: int = 0
    fresh: bool = False


def plan(workspace: Workspace, record: JobRecord) -> None:
    """Reads the corpus' footers, cuts it into shards and checks the reference. Raises InputError or BadReference."""
    started = datetime.now(timezone.utc)
    request = record.request
    made = apart.make_plan(request.corpus, record.access.roots)
    _refuse_own_files(workspace, made)
    text_bytes = sum(shard.text_bytes for shard in made.shards)
    refusal = record.quotas.too_large(len(made.shards), text_bytes)
    if refusal is not None:
        raise InputError(refusal)
    plans.write_plan(workspace.storage, workspace.path(record.id, "plan.parquet"), made)
    reference, trained = None, None
    if request.reference.model is not None:
        reference = inspect_reference(record.access.model or request.reference.model, record.access)
    else:
        train = request.reference.train
        shards = [plans.shard_digest(made, shard, request.corpus) for shard in made.shards]
        trained = digest(shards, train.model_dump() if train else None, TRAINER)
    workspace.write_plan_record(
        record.id,
        PlanRecord(
            started_at=started,
            documents=made.documents,
            shards=len(made.shards),
            text_bytes=text_bytes,
            reference=reference,
            trained=trained,
        ),
    )


def _refuse_own_files(workspace: Workspace, made: plans.Plan) -> None:
    """Raises InputError for a corpus of what the workspace holds: the results of all owners lie there."""
    local = workspace.storage.local("")
    home = os.path.realpath(local) if local is not None else workspace.storage.url.partition("://")[2]
    for file in made.files:
        at_home = "://" not in file.url if local is not None else "://" in file.url
        where = os.path.realpath(file.url) if local is not None else file.url.partition("://")[2]
        if at_home and where.startswith(f"{home.rstrip('/')}/"):
            raise InputError(f"{file.url}: lies in the service's workspace, of which no job reads")


def train(workspace: Workspace, record: JobRecord, references: References, beat: Beat) -> None:
    """Trains the job's reference, from where a killed training was, unless it is there. Raises Busy."""
    planned = plan_of(workspace, record)
    spec = record.request.reference.train
    if planned.trained is None or spec is None or workspace.trained(planned.trained) is not None:
        return
    work = workspace.storage.local(f"training/{planned.trained}") or cache_folder() / "training" / planned.trained
    with _alone(work):
        if workspace.trained(planned.trained) is not None:  # by whoever had the folder before
            return
        made = plans.read_plan(workspace.storage, workspace.path(record.id, "plan.parquet"))
        with beat.blocking():
            device = references.device()
            from scorer.training.train import train as train_reference
        done = 0

        def texts() -> Iterator[str]:
            corpus = record.request.corpus
            roots = record.access.roots
            return training_texts(made, corpus, spec.tokens, spec.fraction, spec.seed, lambda: beat(0, done), roots)

        def on_progress(tokens: int, _total: int, _loss: float | None) -> None:
            nonlocal done
            done = tokens
            beat(0, done)

        out = work / "reference"
        train_reference(texts, spec.preset, spec.tokens, spec.seed, out, work / "state", device, on_progress)
        with beat.blocking():
            _publish(workspace, planned.trained, out)


def score(
    workspace: Workspace,
    record: JobRecord,
    index: int,
    references: References,
    beat: Beat,
    begun: Begun | None = None,
    then: Callable[[], None] | None = None,
) -> Counts:
    """Scores a shard, unless its scores are there. `begun` is its reading, if that has begun; `then` as in `Begun.run`.

    Raises OutOfMemory where even the smallest budget is too much for the device.
    """
    try:
        path = shard_of(workspace, record, index)[2]
        if fresh := not workspace.storage.exists(path):
            with beat.blocking():
                loaded = shards.load(workspace, record, references)
            if begun is None or begun.stale or begun.loaded is not loaded:
                _close(begun)
                begun = Begun(workspace, record, index, loaded)
            while not begun.run(beat, then):
                # Outside of the exception's reach, which holds what fills the memory.
                with beat.blocking():  # it may compile the model again
                    smaller = loaded.halve()
                if not smaller:
                    raise OutOfMemory(f"{loaded.folder}: the device has too little memory to score with this model")
                begun = Begun(workspace, record, index, loaded)  # from its start, so that one budget scores all of it
    finally:
        _close(begun)
    summary = read_summary(workspace.storage, path)
    return Counts(summary["documents"], summary["tokens"], summary["rejects"], fresh)


def _close(begun: Begun | None) -> None:
    if begun is not None:
        begun.close()


def begin(workspace: Workspace, record: JobRecord, index: int, references: References) -> Begun | None:
    """Begins to read a shard, if its scores are not there and its reference is loaded."""
    dtype = record.request.scoring.dtype
    if not references.has(reference_of(workspace, record), dtype):
        return None
    if workspace.storage.exists(shard_of(workspace, record, index)[2]):
        return None
    return Begun(workspace, record, index, shards.load(workspace, record, references))


def load_reference(workspace: Workspace, job: str, references: References) -> None:
    """Loads the reference of a job that scores. Raises BadReference, FileNotFoundError."""
    if (record := workspace.job(job)) is not None:
        shards.load(workspace, record, references)


def tabulate(workspace: Workspace, record: JobRecord) -> None:
    """Joins the shards' scores into the job's table and rejects, unless that is done. Raises InputError, ScoresGone."""
    if workspace.results(record.id) is not None:
        return
    planned, reference = plan_of(workspace, record), reference_of(workspace, record)
    made = plans.read_plan(workspace.storage, workspace.path(record.id, "plan.parquet"))
    paths = score_paths(workspace, record, reference)
    train = record.request.reference.train
    split = Split(train.seed, train.fraction) if train is not None else None
    try:
        scorers = {json.dumps(read_summary(workspace.storage, path)["scorer"], sort_keys=True) for path in paths}
        counts = results.write_results(workspace.storage, workspace.folder(record.id), made, paths, split)
    except FileNotFoundError as error:
        raise ScoresGone(str(error)) from None
    about = provenance(record, planned, reference) | {"scorers": [json.loads(text) for text in sorted(scorers)]}
    progress = {
        "documents_done": counts["documents"],
        "tokens_done": counts["tokens"],
        "rejects": counts["rejects"],
        "shards_done": len(paths),
        "shards_total": len(paths),
    }
    found = {"provenance": about, "counts": counts, "progress": progress}
    workspace.storage.write_json(workspace.path(record.id, "results.json"), found)


def select(workspace: Workspace, record: JobRecord) -> None:
    """Makes the selections that are wanted and not made, and the report. Raises InputError, ScoresGone."""
    tabulate(workspace, record)
    found = workspace.results(record.id) or {}
    folder = workspace.folder(record.id)
    results.check_eligible(workspace.storage, folder, found["counts"])
    made = []
    for spec in workspace.wanted(record):
        there = workspace.selection(record.id, spec.id)
        made.append(there or results.write_selection(workspace.storage, folder, spec, found["provenance"]))
    contexts = [scorer["context"] for scorer in found["provenance"]["scorers"] if scorer.get("context")]
    results.write_report(workspace.storage, folder, found["counts"], made, min(contexts, default=None))
    ids = {"ids": [selection["id"] for selection in made]}
    workspace.storage.write_json(workspace.path(record.id, "selected.json"), ids)


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Holds a training's folder, and removes it if the training ended. Raises Busy while another process has it."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy from None
        yield
        shutil.rmtree(work)


def inspect_reference(model: str, access: Access | None = None) -> ReferenceRecord:
    """What a named reference is, if it is one that can score. Raises BadReference."""
    from scorer.causal_lm.reference import inspect, resolve

    folder = resolve(model)
    if access is not None:
        access.check_model(folder)
    found = inspect(folder)
    return ReferenceRecord(folder=model, trained=False, sha256=found.sha256, tokenizer_sha256=found.tokenizer_sha256)


def _publish(workspace: Workspace, name: str, out: Path) -> None:
    """Puts a trained reference into the workspace, under a name of its content: another one like it is left alone."""
    found = inspect_reference(str(out))
    folder = f"references/{name}/{found.sha256[:16]}"
    for file in sorted(out.iterdir()):
        with file.open("rb") as source, workspace.storage.create(f"{folder}/{file.name}") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    workspace.add_trained(name, found.model_copy(update={"folder": folder, "trained": True}))

"""The stages of a job, each over files of the workspace alone: run by the workers and by `winnow prune` alike.

Each may be run again at any time, and by two workers at once: what it writes appears whole, and says the same.
"""

import fcntl
import json
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from pruner import plan as plans
from pruner import results
from pruner.read import Block, read_shard
from pruner.scores import ShardScoresWriter, read_summary
from pruner.table import Split
from service.references import References, cache_folder
from service.steps import TRAINER, provenance, score_key, score_paths
from service.training import training_texts
from service.workspace import JobRecord, PlanRecord, ReferenceRecord, Workspace, digest


class Busy(Exception):
    """Another process of this machine trains the same reference: look again later."""


class Counts(NamedTuple):
    """What a task adds to its job: documents (with the rejects), tokens, rejects; `fresh` if it was not there."""

    documents: int = 0
    tokens: int = 0
    rejects: int = 0
    fresh: bool = False


class Beat(Protocol):
    """How a stage says that it goes on. Both may raise, to end the stage."""

    def __call__(self, documents: int, tokens: int) -> None:
        """So much of the task is done."""

    def blocking(self) -> AbstractContextManager[None]:
        """Says so by itself around a part that cannot."""


def plan(workspace: Workspace, record: JobRecord) -> None:
    """Reads the corpus' footers, cuts it into shards and checks the reference. Raises InputError or BadReference."""
    started = datetime.now(timezone.utc)
    request = record.request
    made = plans.make_plan(request.corpus)
    plans.write_plan(workspace.storage, workspace.path(record.id, "plan.parquet"), made)
    reference, trained = None, None
    if request.reference.model is not None:
        reference = _inspect(request.reference.model)
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
            reference=reference,
            trained=trained,
        ),
    )


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
            from scorer.train import train as train_reference
        done = 0

        def texts() -> Iterator[str]:
            corpus = record.request.corpus
            return training_texts(made, corpus, spec.tokens, spec.fraction, spec.seed, lambda: beat(0, done))

        def on_progress(tokens: int, _total: int, _loss: float | None) -> None:
            nonlocal done
            done = tokens
            beat(0, done)

        out = work / "reference"
        train_reference(texts, spec.preset, spec.tokens, spec.seed, out, work / "state", device, on_progress)
        with beat.blocking():
            _publish(workspace, planned.trained, out)


def score(workspace: Workspace, record: JobRecord, index: int, references: References, beat: Beat) -> Counts:
    """Scores a shard, unless its scores are there."""
    reference = workspace.reference(plan_of(workspace, record))
    if reference is None:
        raise FileNotFoundError("the reference that the job trained is no longer in the workspace")
    spec = record.request.corpus
    made = plans.read_plan(workspace.storage, workspace.path(record.id, "plan.parquet"))
    shard = made.shards[index]
    path = workspace.score_path(score_key(record, reference), plans.shard_digest(made, shard, spec))
    fresh = not workspace.storage.exists(path)
    if fresh:
        with beat.blocking():
            loaded = references.get(reference, record.request.scoring.dtype)
            from scorer.scorer import score as score_blocks
        waiting: deque[Block] = deque()

        def texts() -> Iterator[list[str]]:
            for block in read_shard(made, shard, spec):
                waiting.append(block)
                yield [text for text in block.texts if text is not None]

        with ShardScoresWriter(workspace.storage, path, loaded.provenance()) as writer:
            for nll, tokens in score_blocks(loaded, texts(), stride=record.request.scoring.stride, on_progress=beat):
                block = waiting.popleft()
                writer.append(block, *_spread(block, tokens, nll))
    summary = read_summary(workspace.storage, path)
    return Counts(summary["documents"], summary["tokens"], summary["rejects"], fresh)


def tabulate(workspace: Workspace, record: JobRecord) -> None:
    """Joins the shards' scores into the job's table and rejects, unless that is done. Raises InputError."""
    if workspace.results(record.id) is not None:
        return
    planned = plan_of(workspace, record)
    reference = workspace.reference(planned)
    if reference is None:
        raise FileNotFoundError("the reference that the job trained is no longer in the workspace")
    made = plans.read_plan(workspace.storage, workspace.path(record.id, "plan.parquet"))
    paths = score_paths(workspace, record, reference)
    scorers = {json.dumps(read_summary(workspace.storage, path)["scorer"], sort_keys=True) for path in paths}
    train = record.request.reference.train
    split = Split(train.seed, train.fraction) if train is not None else None
    counts = results.write_results(workspace.storage, workspace.folder(record.id), made, paths, split)
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
    """Makes the selections that are wanted and not made, and the report. Raises InputError."""
    tabulate(workspace, record)
    found = workspace.results(record.id) or {}
    folder = workspace.folder(record.id)
    made = []
    for spec in workspace.wanted(record):
        there = workspace.selection(record.id, spec.id)
        made.append(there or results.write_selection(workspace.storage, folder, spec, found["provenance"]))
    contexts = [scorer["context"] for scorer in found["provenance"]["scorers"] if scorer.get("context")]
    results.write_report(workspace.storage, folder, found["counts"], made, min(contexts, default=None))
    ids = {"ids": [selection["id"] for selection in made]}
    workspace.storage.write_json(workspace.path(record.id, "selected.json"), ids)


def _spread(block: Block, tokens: Any, nll: Any) -> tuple[Any, Any]:
    """Scores of a block's texts [D] as columns of its rows [R]: 0 tokens and NaN where a row has no text."""
    there = np.array([text is not None for text in block.texts], dtype=bool)
    row_tokens, row_nll = np.zeros(block.rows, np.int64), np.full(block.rows, np.nan)
    row_tokens[there], row_nll[there] = tokens, nll
    return row_tokens, row_nll


def plan_of(workspace: Workspace, record: JobRecord) -> PlanRecord:
    """What planning found. Raises FileNotFoundError if it has not ended."""
    planned = workspace.plan_record(record.id)
    if planned is None:
        raise FileNotFoundError("the job's plan is no longer in the workspace")
    return planned


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


def _inspect(model: str) -> ReferenceRecord:
    """What a named reference is, if it is one that can score. Raises BadReference."""
    from scorer.reference import inspect, resolve

    folder = resolve(model)
    found = inspect(folder)
    return ReferenceRecord(folder=model, trained=False, sha256=found.sha256, tokenizer_sha256=found.tokenizer_sha256)


def _publish(workspace: Workspace, name: str, out: Path) -> None:
    """Puts a trained reference into the workspace, under a name of its content: another one like it is left alone."""
    found = _inspect(str(out))
    folder = f"references/{name}/{found.sha256[:16]}"
    for file in sorted(out.iterdir()):
        with file.open("rb") as source, workspace.storage.create(f"{folder}/{file.name}") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    workspace.add_trained(name, found.model_copy(update={"folder": folder, "trained": True}))

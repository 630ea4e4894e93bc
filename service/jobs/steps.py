"""What comes next for a job, by its files alone; and the names that its scores and its provenance go by."""

import platform
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import pruner.corpus.plan
import service
from service.store.workspace import JobRecord, PlanRecord, ReferenceRecord, Workspace, digest

Step = Literal["plan", "train", "score", "select", "end"]
ENGINE = 6  # raised when a change of the code changes scores, so that files of before are not taken for new ones
TRAINER = 2  # the same for trained references


def next_step(workspace: Workspace, record: JobRecord) -> Step:
    """The stage that a job's files call for; `end` when nothing is left to do but to say so."""
    plan = workspace.plan_record(record.id)
    if plan is None:
        return "plan"
    reference = workspace.reference(plan)
    if reference is None:
        return "train"
    if workspace.results(record.id) is None and _missing_scores(workspace, record, reference):
        return "score"
    if workspace.results(record.id) is None or unmade(workspace, record):
        return "select"
    return "end"


def unmade(workspace: Workspace, record: JobRecord) -> list[str]:
    """The ids of the selections that are wanted and not made."""
    made = workspace.selected(record.id)
    return [spec.id for spec in workspace.wanted(record) if spec.id not in made]


def score_paths(workspace: Workspace, record: JobRecord, reference: ReferenceRecord) -> list[str]:
    """Where the raw scores of each shard of a planned job are or will be, in plan order."""
    plan = pruner.corpus.plan.read_plan(workspace.storage, workspace.path(record.id, "plan.parquet"))
    key = score_key(record, reference)
    digests = (pruner.corpus.plan.shard_digest(plan, shard, record.request.corpus) for shard in plan.shards)
    return [workspace.score_path(key, name) for name in digests]


def known_score_paths(workspace: Workspace, record: JobRecord) -> list[str]:
    """`score_paths`, as far as they are known by now: none of a job that is not planned or has no reference."""
    reference = workspace.known_reference(record.id)
    return [] if reference is None else score_paths(workspace, record, reference)


def score_key(record: JobRecord, reference: ReferenceRecord) -> str:
    """What scores depend on besides their shard."""
    return digest(reference.sha256, reference.tokenizer_sha256, record.request.scoring.model_dump(), ENGINE)


def provenance(record: JobRecord, plan: PlanRecord, reference: ReferenceRecord | None) -> dict[str, Any]:
    """What made a job's results: the same from the service and from `winnow prune`. No time, host, path or job id."""
    request = record.request
    made: dict[str, Any] = {"sha256": None, "tokenizer_sha256": None}
    if reference is not None:
        made = {"sha256": reference.sha256, "tokenizer_sha256": reference.tokenizer_sha256}
    if request.reference.train is not None:
        made["train"] = request.reference.train.model_dump()
    return {
        "winnow": service.__version__,
        "corpus": request.corpus.model_dump(exclude={"paths"}) | {"documents": plan.documents, "shards": plan.shards},
        "reference": made,
        "scoring": request.scoring.model_dump() | {"engine": ENGINE},
        "versions": _versions(),
    }


@cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "numpy": version("numpy"), "pyarrow": version("pyarrow")}


def _missing_scores(workspace: Workspace, record: JobRecord, reference: ReferenceRecord) -> bool:
    there = set(workspace.storage.list(f"scores/{score_key(record, reference)}"))
    return any(path.rpartition("/")[2] not in there for path in score_paths(workspace, record, reference))

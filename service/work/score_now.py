"""Scores the texts of a score request: in a worker, and for `winnow score -` without a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruner.corpus.batches import EMPTY
from pruner.tables.shard_scores import NO_TOKEN, NON_FINITE
from scorer.engine.model_loader import ModelLoader
from scorer.errors import BadReference, OutOfMemory
from service.contract.permissions import Access
from service.contract.schemas import Problem, ScoredText, ScoredToken, ScoreRequest, ScoreResult
from service.kinds.job_files import JobFiles
from service.kinds.model import identify
from service.kinds.model_files import load
from service.store.records import ModelRecord
from service.store.workspace import Workspace

if TYPE_CHECKING:
    from scorer.causal_lm.reference import Reference


def answer(workspace: Workspace, models: ModelLoader, request: ScoreRequest, access: Access) -> ScoreResult | Problem:
    """The result for a request, or the problem with it."""
    try:
        found = find_reference(workspace, request, access)
        return score_now(load(models, workspace, found, request.scoring.dtype), request)
    except BadReference as error:
        return Problem(title="The texts cannot be scored", status=422, detail=str(error))
    except (OutOfMemory, FileNotFoundError) as error:
        return Problem(title="The texts cannot be scored", status=503, detail=str(error))


def find_reference(workspace: Workspace, request: ScoreRequest, access: Access) -> ModelRecord:
    """The reference that a request names. Raises BadReference."""
    if request.job is None:
        return identify(access.model or request.model or "", access)
    record = workspace.job(request.job)
    if record is None:
        raise BadReference(f"there is no job {request.job}")
    reference = JobFiles(workspace, record).model
    if reference is None:
        raise BadReference(f"job {request.job} has no reference: it is there when the job scores")
    return reference


def score_now(loaded: Reference, request: ScoreRequest) -> ScoreResult:
    """Scores the texts of a request by a reference. Raises OutOfMemory."""
    from scorer.engine.score_texts import score_texts

    documents = []
    for text, score in zip(request.texts, score_texts(loaded, request.texts, request.scoring.stride), strict=True):
        reject = None if score.total is not None else NON_FINITE if score.n_tokens else NO_TOKEN if text else EMPTY
        scored = zip(score.ids.tolist(), score.token_nll, strict=True) if request.tokens else ()
        tokens = [ScoredToken(id=index, text=loaded.tokenizer.decode(index), nll=nll) for index, nll in scored]
        documents.append(
            ScoredText(
                n_tokens=score.n_tokens if reject is None else None,
                nll=score.total,
                perplexity=score.perplexity,
                reject=reject,
                tokens=tokens if request.tokens else None,
            )
        )
    return ScoreResult(documents=documents, provenance=loaded.provenance())

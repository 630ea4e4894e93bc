"""Scores the texts of a score request: in a worker, and for `winnow score -` without a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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
    from scorer.engine.score_texts import TextScore, score_texts

    def show(text: str, score: TextScore) -> ScoredText:
        nll = float(score.nll.sum())
        fine = score.n_tokens > 0 and bool(np.isfinite(nll))
        return ScoredText(
            n_tokens=score.n_tokens if fine else None,
            nll=nll if fine else None,
            perplexity=_perplexity(nll / score.n_tokens) if fine else None,
            reject=None if fine else NON_FINITE if score.n_tokens else NO_TOKEN if text else EMPTY,
            tokens=list(map(_token, *tokens_of(score))) if request.tokens else None,
        )

    def tokens_of(score: TextScore) -> tuple[list[int], list[str], list[float | None]]:
        ids = score.ids.tolist()
        unscored: list[float | None] = [None] * (len(ids) - score.n_tokens)
        nll = [value if np.isfinite(value) else None for value in score.nll.tolist()]
        return ids, [loaded.tokenizer.decode(index) for index in ids], unscored + nll

    scores = score_texts(loaded, request.texts, request.scoring.stride)
    documents = [show(text, score) for text, score in zip(request.texts, scores, strict=True)]
    return ScoreResult(documents=documents, provenance=loaded.provenance())


def _token(index: int, text: str, nll: float | None) -> ScoredToken:
    return ScoredToken(id=index, text=text, nll=nll)


def _perplexity(mean: float) -> float | None:
    """exp of a mean NLL, None where no float64 holds it."""
    value = float(np.exp(min(mean, 709.0)))
    return value if mean <= 709.0 else None

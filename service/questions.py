"""A few texts to score now: a question that the API puts into Redis, and a worker answers between two batches.

    p questions            list    JSON {id, until, request}, until in milliseconds of Redis' clock; oldest first
    p answer:<id>          list    one element, JSON: {"result": …} or {"problem": …}; gone after a minute

with `p` as in scripts.py. A question that nobody took in time is dropped by the next who asks or takes. A worker that
dies with one loses it: whoever asked is told that nobody answered, and may ask again.
"""

from __future__ import annotations

import json
import uuid

import numpy as np

from pruner.scores import NO_TOKEN, NON_FINITE
from scorer.errors import BadReference, OutOfMemory
from service.queue import Queue
from service.references import References
from service.schemas import Problem, ScoredText, ScoredToken, ScoreRequest, ScoreResult
from service.shards import plan_of
from service.stages import inspect_reference
from service.workspace import ReferenceRecord, Workspace

_WAITING_MAX = 64  # questions, beyond which no more are taken
_KEPT_SECONDS = 60  # that an answer waits for whoever asked


class Questions:
    """Both ends of it. All methods raise redis.RedisError when Redis is away."""

    def __init__(self, queue: Queue) -> None:
        self._redis = queue.redis
        self._list = f"{queue.prefix}questions"
        self._answers = f"{queue.prefix}answer:"

    # -- whoever asks
    def ask(self, request: ScoreRequest, seconds: float) -> str | None:
        """Puts a question that is good for so long; its id, or None if too many wait."""
        while (oldest := self._redis.lindex(self._list, 0)) is not None and json.loads(oldest)["until"] <= self._now():
            self._redis.lrem(self._list, 1, oldest)
        if self._redis.llen(self._list) >= _WAITING_MAX:
            return None
        name = uuid.uuid4().hex
        question = {"id": name, "until": self._now() + round(seconds * 1000), "request": request.model_dump()}
        self._redis.rpush(self._list, json.dumps(question))
        return name

    def answer(self, name: str) -> ScoreResult | Problem | None:
        """The answer to a question, or None while there is none."""
        text = self._redis.lpop(f"{self._answers}{name}")
        if text is None:
            return None
        answer = json.loads(text)
        return Problem(**answer["problem"]) if "problem" in answer else ScoreResult(**answer["result"])

    # -- whoever answers
    def take(self) -> tuple[str, ScoreRequest] | None:
        """The oldest question that somebody still waits for, with its id; it is nobody else's now."""
        while (text := self._redis.lpop(self._list)) is not None:
            question = json.loads(text)
            if question["until"] > self._now():
                return question["id"], ScoreRequest(**question["request"])
        return None

    def give(self, name: str, answer: ScoreResult | Problem) -> None:
        """Answers a question."""
        kind = "problem" if isinstance(answer, Problem) else "result"
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.rpush(f"{self._answers}{name}", json.dumps({kind: answer.model_dump()}))
            pipe.expire(f"{self._answers}{name}", _KEPT_SECONDS)
            pipe.execute()

    def _now(self) -> int:
        seconds, micros = self._redis.time()
        return int(seconds * 1000 + micros // 1000)


def answer(workspace: Workspace, references: References, request: ScoreRequest) -> ScoreResult | Problem:
    """Scores the texts of a question."""
    try:
        return score_now(references, find_reference(workspace, request), request)
    except BadReference as error:
        return Problem(title="The texts cannot be scored", status=422, detail=str(error))
    except (OutOfMemory, FileNotFoundError) as error:
        return Problem(title="The texts cannot be scored", status=503, detail=str(error))


def find_reference(workspace: Workspace, request: ScoreRequest) -> ReferenceRecord:
    """The reference that a question names. Raises BadReference."""
    if request.job is None:
        return inspect_reference(request.model or "")
    record = workspace.job(request.job)
    reference = None if record is None else workspace.reference(plan_of(workspace, record))
    if reference is None:
        raise BadReference(f"job {request.job} has no reference: it is there when the job scores")
    return reference


def score_now(references: References, reference: ReferenceRecord, request: ScoreRequest) -> ScoreResult:
    """Scores the texts of a request. Raises BadReference, and OutOfMemory."""
    loaded = references.get(reference, request.scoring.dtype)
    from scorer.few import TextScore, score_few

    def show(score: TextScore) -> ScoredText:
        nll = float(score.nll.sum())
        fine = score.n_tokens > 0 and bool(np.isfinite(nll))
        return ScoredText(
            n_tokens=score.n_tokens if fine else None,
            nll=nll if fine else None,
            perplexity=_perplexity(nll / score.n_tokens) if fine else None,
            reject=None if fine else NON_FINITE if score.n_tokens else NO_TOKEN,
            tokens=list(map(_token, *tokens_of(score))) if request.tokens else None,
        )

    def tokens_of(score: TextScore) -> tuple[list[int], list[str], list[float | None]]:
        ids = score.ids.tolist()
        unscored: list[float | None] = [None] * (len(ids) - score.n_tokens)
        nll = [value if np.isfinite(value) else None for value in score.nll.tolist()]
        return ids, [loaded.tokenizer.decode(index) for index in ids], unscored + nll

    scores = score_few(loaded, request.texts, request.scoring.stride)
    return ScoreResult(documents=[show(score) for score in scores], provenance=loaded.provenance())


def _token(index: int, text: str, nll: float | None) -> ScoredToken:
    return ScoredToken(id=index, text=text, nll=nll)


def _perplexity(mean: float) -> float | None:
    """exp of a mean NLL, None where no float64 holds it."""
    value = float(np.exp(min(mean, 709.0)))
    return value if mean <= 709.0 else None

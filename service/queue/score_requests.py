"""Requests to score a few texts at once: the API puts them into Redis, and a worker answers between two batches.

    p requests             list    JSON of Envelope; oldest first
    p answer:<id>          list    one element, JSON of ScoreResult or Problem; gone after a minute

with `p` as in prelude.lua. A request that no worker took in time is dropped at the next call. A worker that dies with
one loses it: the caller is told that no worker answered, and may ask again.
"""

import uuid

from pydantic import BaseModel, TypeAdapter

from service.contract.permissions import Access
from service.contract.schemas import Problem, ScoreRequest, ScoreResult
from service.queue.leases import Queue

_WAITING_MAX = 64  # requests that may wait
_KEPT_SECONDS = 60  # that an answer is kept for its caller
_ANSWER: TypeAdapter[ScoreResult | Problem] = TypeAdapter(ScoreResult | Problem)


class Envelope(BaseModel):
    """A request on its way to a worker."""

    format: int = 1
    id: str
    until: int  # ms of Redis' clock
    request: ScoreRequest
    access: Access


class ScoreRequests:
    """Both ends. All methods raise redis.RedisError when Redis is away."""

    def __init__(self, queue: Queue) -> None:
        self._redis = queue.redis
        self._list = f"{queue.prefix}requests"
        self._answers = f"{queue.prefix}answer:"

    def put(self, request: ScoreRequest, seconds: float, access: Access | None = None) -> str | None:
        """Puts a request that waits for so long; its id, or None if too many wait."""
        while (oldest := self._redis.lindex(self._list, 0)) is not None and not self._waits(oldest):
            self._redis.lrem(self._list, 1, oldest)
        if self._redis.llen(self._list) >= _WAITING_MAX:
            return None
        until = self._now() + round(seconds * 1000)
        envelope = Envelope(id=uuid.uuid4().hex, until=until, request=request, access=access or Access())
        self._redis.rpush(self._list, envelope.model_dump_json())
        return envelope.id

    def answer(self, name: str) -> ScoreResult | Problem | None:
        """The answer to a request, or None while there is none."""
        text = self._redis.lpop(f"{self._answers}{name}")
        return None if text is None else _ANSWER.validate_json(text)

    def take(self) -> Envelope | None:
        """Takes the oldest request that still waits."""
        while (text := self._redis.lpop(self._list)) is not None:
            if self._waits(text):
                return Envelope.model_validate_json(text)
        return None

    def give(self, name: str, found: ScoreResult | Problem) -> None:
        """Answers a request."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.rpush(f"{self._answers}{name}", found.model_dump_json())
            pipe.expire(f"{self._answers}{name}", _KEPT_SECONDS)
            pipe.execute()

    def _waits(self, text: str) -> bool:
        return Envelope.model_validate_json(text).until > self._now()

    def _now(self) -> int:
        seconds, micros = self._redis.time()
        return int(seconds * 1000 + micros // 1000)

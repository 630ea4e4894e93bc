"""A few texts to score now: a question that the API puts into Redis, and a worker answers between two batches.

    p questions            list    JSON {id, until, request, access}, until in ms of Redis' clock; oldest first
    p answer:<id>          list    one element, JSON: {"result": …} or {"problem": …}; gone after a minute

with `p` as in scripts.py. A question that nobody took in time is dropped by the next who asks or takes. A worker that
dies with one loses it: whoever asked is told that nobody answered, and may ask again.
"""

from __future__ import annotations

import json
import uuid

from service.contract.permissions import Access
from service.contract.schemas import Problem, ScoreRequest, ScoreResult
from service.queue.leases import Queue

_WAITING_MAX = 64  # questions, beyond which no more are taken
_KEPT_SECONDS = 60  # that an answer waits for whoever asked


class Questions:
    """Both ends of it. All methods raise redis.RedisError when Redis is away."""

    def __init__(self, queue: Queue) -> None:
        self._redis = queue.redis
        self._list = f"{queue.prefix}questions"
        self._answers = f"{queue.prefix}answer:"

    # -- whoever asks
    def ask(self, request: ScoreRequest, seconds: float, access: Access | None = None) -> str | None:
        """Puts a question that is good for so long; its id, or None if too many wait."""
        while (oldest := self._redis.lindex(self._list, 0)) is not None and json.loads(oldest)["until"] <= self._now():
            self._redis.lrem(self._list, 1, oldest)
        if self._redis.llen(self._list) >= _WAITING_MAX:
            return None
        name = uuid.uuid4().hex
        question = {"id": name, "until": self._now() + round(seconds * 1000), "request": request.model_dump()}
        question["access"] = (access or Access()).model_dump()
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
    def take(self) -> tuple[str, ScoreRequest, Access] | None:
        """The oldest question that is still waited for: its id, it, and what it may read; it is nobody else's now."""
        while (text := self._redis.lpop(self._list)) is not None:
            question = json.loads(text)
            if question["until"] > self._now():
                return question["id"], ScoreRequest(**question["request"]), Access(**question["access"])
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

"""Prometheus metrics: requests by route, and the queue's sizes as they are when they are asked for."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import RedisError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.jobs.jobs import Jobs

_LABELS = ("method", "route", "status")
# Any other word is counted as one, as callers with no key may send what they like, and each label stays in memory.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class QueueCollector(Collector):
    """Reads the queue at each scrape."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """The metrics; `winnow_redis_up` alone while Redis is away."""
        up = GaugeMetricFamily("winnow_redis_up", "Whether the service's Redis answers")
        try:
            stats = self._jobs.queue.stats()
        except RedisError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        for name, text, counts in (
            ("pending", "Tasks that wait for a worker", stats.pending),
            ("leased", "Tasks that a worker has", stats.leased),
        ):
            gauge = GaugeMetricFamily(f"winnow_tasks_{name}", text, labels=["resource"])
            for resource, count in counts.items():
                gauge.add_metric([resource], count)
            yield gauge
        jobs = GaugeMetricFamily("winnow_jobs", "Jobs by status", labels=["status"])
        for status, count in stats.jobs.items():
            jobs.add_metric([status], count)
        yield jobs
        yield GaugeMetricFamily("winnow_workers", "Workers that were seen of late", value=stats.workers)
        for name, total in (
            ("shards", stats.shards_scored),
            ("documents", stats.documents_scored),
            ("tokens", stats.tokens_scored),
        ):
            yield CounterMetricFamily(
                f"winnow_scored_{name}", f"{name.capitalize()} scored by all workers", value=total
            )
        yield CounterMetricFamily(
            "winnow_leases_lost", "Leases whose worker died or hung; their tasks went to another", stats.leases_lost
        )
        yield CounterMetricFamily(
            "winnow_leases_refused",
            "Calls of workers whose lease was over: lost to another, or of a job that had ended",
            stats.leases_refused,
        )


class Metrics:
    """ASGI middleware that counts requests and times them, by route template so that ids make no series."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter("winnow_http_requests", "Requests", _LABELS, registry=registry)
        self._seconds = Histogram("winnow_http_request_seconds", "Time to answer", _LABELS[:2], registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._requests.labels(method, route, status).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - started)

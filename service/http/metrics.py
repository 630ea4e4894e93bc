"""Prometheus metrics of the queue, read from Redis at each scrape."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import RedisError

from service.jobs.jobs import Jobs


class QueueCollector(Collector):
    """The sizes of the queue and the totals of all jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """The metrics; only `winnow_redis_up` while Redis does not answer."""
        up = GaugeMetricFamily("winnow_redis_up", "Whether the service's Redis answers")
        try:
            stats, by_status = self._jobs.queue.stats(), self._jobs.counts()
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
        for status, count in by_status.items():
            jobs.add_metric([status], count)
        yield jobs
        yield GaugeMetricFamily("winnow_workers", "Workers with a recent heartbeat", value=stats.workers)
        for name in ("shards", "documents", "tokens"):
            total = stats.totals.get(f"scores/{name}", 0)
            yield CounterMetricFamily(
                f"winnow_scored_{name}", f"{name.capitalize()} scored by all workers", value=total
            )
        yield CounterMetricFamily(
            "winnow_leases_lost",
            "Leases whose worker died or hung; their tasks went to another",
            stats.totals.get("lost", 0),
        )
        yield CounterMetricFamily(
            "winnow_leases_refused",
            "Calls of workers whose lease was over: lost to another, or of a job or ablation that had ended",
            stats.totals.get("refused", 0),
        )

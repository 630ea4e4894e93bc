"""Many users at once beside a worker that scores, and many jobs in the list."""

import gc
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import cycle, product
from pathlib import Path
from typing import Any

import httpx

from scorer.engine.model_loader import ModelLoader
from service.contract.names import RESOURCES
from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.queue.leases import connect
from service.run.redis_server import RedisServer
from service.store.workspace import Workspace
from service.work.pool_worker import PoolWorker
from tests.faults.audit import Figures, prefix, private_redis
from tests.faults.load import Load
from tests.scale.processes import resident_mib
from tests.service.pool import until
from tests.service.serving import Service

MakeRequest = Callable[..., JobRequest]
Serve = Callable[..., Service]
STATUS_SECONDS = 0.1  # in which 99 of 100 answers about a job's status are there
PAGE_SECONDS = 0.1
GROWTH = 1.1  # of the service's memory from the second half of a load to its end


@contextmanager
def busy(service: Service, request: JobRequest) -> Iterator[None]:
    """Keeps a scoring worker at work that is new to it."""
    over = threading.Event()
    fields = product(("id", None), ("domain", None), ("auto", "float32"))
    requests = cycle(
        request.model_copy(
            update={
                "corpus": request.corpus.model_copy(update={"id_field": id_field, "domain_field": domain_field}),
                "scoring": request.scoring.model_copy(update={"dtype": dtype}),
            }
        )
        for id_field, domain_field, dtype in fields
    )

    def submit() -> None:
        while not over.is_set():
            job = service.submit(next(requests))
            while not over.wait(1) and service.job(job)["status"] not in ("succeeded", "failed"):
                pass

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_users_at_once(
    serve: Serve, make_request: MakeRequest, figures: Figures, chance: Any, long: bool, tmp_path: Path
) -> None:
    service = serve(workers=1)
    redis, totals = private_redis(tmp_path / "workspace"), f"{prefix(tmp_path / 'workspace')}totals"
    size: dict[str, Any] = {"jobs": 20, "submit_seconds": 3, "pollers": 10, "streams": 5, "seconds": 5}
    if long:
        size = {"jobs": 1000, "submit_seconds": 60, "pollers": 200, "streams": 50, "seconds": 600}
    seed = chance.randrange(1 << 32)
    load = Load(service.url, make_request(1, documents=10).model_dump(mode="json"), seed=seed, **size)
    sizes: list[float] = []
    with busy(service, make_request(*((120, 300, 200) if long else (20, 100, 100)))):
        until(lambda: redis.hget(totals, "scores/tokens"))
        scored, started = int(redis.hget(totals, "scores/tokens")), time.monotonic()
        under = threading.Thread(target=load.run)
        under.start()
        while under.is_alive():
            under.join(size["seconds"] / 40)
            sizes.append(resident_mib(service.process.pid))
        scored, took = int(redis.hget(totals, "scores/tokens")) - scored, time.monotonic() - started

    assert load.broken == []
    assert set(load.answers) <= {200, 202, 429}
    assert len(load.ids) == size["jobs"]
    assert load.events > 0
    ordered = sorted(load.status_times)
    times = {part: ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.95, 0.99, 1.0)}
    percentiles = ", ".join(f"{100 * part:g} % {1000 * value:.1f} ms" for part, value in times.items())
    half = sizes[len(sizes) // 2 :]
    figures.say(
        f"{size['jobs']} jobs in {size['submit_seconds']} s, {size['pollers']} pollers, {size['streams']} streams, "
        f"{took:.0f} s on {os.cpu_count()} cores: {sum(load.answers.values()):,} answers ({dict(load.answers)}), "
        f"{load.events:,} events, {scored / took:,.0f} tokens/s scored beside"
    )
    figures.say(f"status: {percentiles}; submitting: most {1000 * max(load.submit_times):.1f} ms")
    figures.say(f"memory of the API: {sizes[0]:.0f} MiB at first, {half[0]:.0f} half way, {half[-1]:.0f} in the end")
    if long:
        assert times[0.99] < STATUS_SECONDS
        assert half[-1] < GROWTH * half[0]


def test_many_jobs_in_the_list(
    serve: Serve, redis_server: RedisServer, make_request: MakeRequest, figures: Figures, long: bool, tmp_path: Path
) -> None:
    count = 10_000 if long else 100
    three = [{"criterion": criterion, "rate": 0.5} for criterion in ("low", "medium", "high")]
    jobs = Jobs(Workspace(str(tmp_path / "workspace")), connect(redis_server.url))
    first, _ = jobs.create(make_request(1, documents=10, selections=three))
    worker = PoolWorker(jobs, ModelLoader("cpu"), RESOURCES, "here")
    until(lambda: not worker.once())
    copy_job(tmp_path / "workspace" / "jobs", first.id, count - 1)
    started = time.monotonic()
    service = serve(workers=0)
    figures.say(f"{count:,} ended jobs that Redis does not know: ready in {time.monotonic() - started:.1f} s")
    service.process.terminate()
    service.process.wait()
    started = time.monotonic()
    service = serve(workers=0)
    figures.say(f"{count:,} ended jobs that it knows: ready in {time.monotonic() - started:.1f} s")
    gc.freeze()  # full collections of this process would be measured with the answers
    for limit in (20, 200):
        seen, times, cursor = list[str](), list[float](), None
        with httpx.Client(base_url=service.url) as client:
            while not times or cursor is not None:
                query = {"limit": limit, "status": "succeeded"} | ({"cursor": cursor} if cursor else {})
                started = time.monotonic()
                answer = client.get("/v1/jobs", params=query).raise_for_status()
                times.append(time.monotonic() - started)
                page = answer.json()
                seen += [job["id"] for job in page["data"]]
                cursor = page["next_cursor"]
        assert len(seen) == len(set(seen)) == count
        middle, most = 1000 * statistics.median(times), 1000 * max(times)
        figures.say(f"pages of {limit}: median {middle:.1f} ms, most {most:.1f} ms of {len(times)}")
        if long:
            assert sorted(times)[int(0.99 * (len(times) - 1))] < PAGE_SECONDS


def copy_job(folder: Path, job_id: str, copies: int) -> None:
    """Makes copies of an ended job, each with an id and a time of its own, that share all other files with it."""
    about = json.loads((folder / job_id / "job.json").read_text())
    files = [path.relative_to(folder / job_id) for path in (folder / job_id).rglob("*") if path.is_file()]
    for number in range(copies):
        name, created = f"copy-{number}", datetime.fromisoformat(about["created_at"]) - timedelta(seconds=number)
        for file in files:
            target = folder / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.name == "job.json":
                target.write_text(json.dumps(about | {"id": name, "created_at": created.isoformat()}))
            else:
                os.link(folder / job_id / file, target)

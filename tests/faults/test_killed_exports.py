"""Exports whose workers are killed again and again: the same files as those of an undisturbed export."""

import os
import random
import signal
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import get_args

import httpx

from pruner.export.formats import ExportFormat
from service.contract.schemas import ExportOptions, JobRequest
from service.work.local import prune
from service.work.local_export import export_selection
from tests.faults.audit import Figures, nothing_left, private_redis
from tests.service.pool import until
from tests.service.serving import Service

Serve = Callable[..., Service]
MakeRequest = Callable[..., JobRequest]


def test_workers_killed_while_they_export(
    serve: Serve, make_request: MakeRequest, figures: Figures, chance: random.Random, long: bool, tmp_path: Path
) -> None:
    wanted, files = (50, 40) if long else (2, 8)
    request = make_request(files)
    prune(request, tmp_path / "pruned", "cpu", lambda *_: None)
    service = serve(workers=2 if long else 1)
    job = service.ended(service.submit(request))
    url = f"{service.url}/v1/jobs/{job['id']}"
    kills, exports, started = 0, 0, time.monotonic()
    for target, scores in product(get_args(ExportFormat), (False, True)):
        options = {"format": target, "scores": scores}
        asked = httpx.post(f"{url}/selections/medium-0.5/exports", json=options).raise_for_status().json()
        address = f"{url}/exports/{asked['id']}"
        while (shown := httpx.get(address).raise_for_status().json())["status"] in ("queued", "running"):
            workers = [pid for name, pid in service.children().items() if name != "redis"]
            if workers and kills < wanted:
                os.kill(chance.choice(workers), signal.SIGKILL)
                kills += 1
            time.sleep(chance.uniform(0, 1))
        assert shown["status"] == "succeeded", shown["error"]
        exports += 1
        out = tmp_path / f"{target}-{scores}"
        export_selection(tmp_path / "pruned", "medium-0.5", ExportOptions(**options, out=str(out)), lambda _: None)
        names = [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()]
        for name in names:
            assert httpx.get(f"{address}/files/{name}").raise_for_status().content == (out / name).read_bytes(), name
        assert {file["path"] for file in shown["files"]} == set(names) - {"export.json", "README.md"}
        if kills >= wanted:
            break
    took = time.monotonic() - started
    figures.say(
        f"{kills} kills through {exports} exports of {files} files in {took:.0f} s, all with an undisturbed one's bytes"
    )
    assert kills >= wanted
    until(lambda: service.job(job["id"])["status"] == "succeeded")
    nothing_left(tmp_path / "workspace", private_redis(tmp_path / "workspace"))

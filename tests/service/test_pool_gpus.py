"""GPUs of a host: used by their workers, lent to a training, and given back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scorer.engine.model_loader import ModelLoader
from service.contract.names import RESOURCES
from service.jobs.jobs import Jobs
from service.kinds.pool_gpus import PoolGpus
from service.work.pool_worker import PoolWorker
from tests.service.test_worker import MakeRequest

NAMES = ["0", "1", "2"]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[list[PoolGpus]]:
    """The GPUs as the worker of each sees them."""
    made = [PoolGpus(tmp_path, name, [other for other in NAMES if other != name]) for name in NAMES]
    yield made
    for gpus in made:
        gpus.give()


def no_beat() -> None:
    pytest.fail("it waited")


def test_a_training_borrows_gpus_whose_workers_are_idle(pool: list[PoolGpus]) -> None:
    trainer, busy, idle = pool
    assert trainer.take()
    assert busy.take()
    with trainer.idle(5) as gpus:
        assert gpus == ["2"]
        assert not idle.take()
        with busy.idle(5) as left:
            assert left == []
    assert idle.take()


def test_a_training_that_goes_on_waits_for_as_many_gpus(pool: list[PoolGpus]) -> None:
    trainer, busy, other = pool
    assert busy.take()
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        with pytest.raises(BlockingIOError), other.exactly(2, no_beat):
            pass
        if beats == 3:
            assert not busy.take()  # between two tasks it sees that a training waits

    with trainer.exactly(2, beat) as gpus:
        assert sorted(gpus) == ["1", "2"]
        assert not busy.take()
    assert beats >= 3
    assert busy.take()
    with other.exactly(0, no_beat) as none:
        assert none == []


def test_a_worker_whose_gpu_is_lent_takes_light_tasks_alone(
    jobs: Jobs, make_request: MakeRequest, pool: list[PoolGpus]
) -> None:
    worker = PoolWorker(jobs, ModelLoader("cpu"), RESOURCES, "here", gpus=pool[0])
    job, _ = jobs.create(make_request())
    with pool[1].idle(1) as gpus:
        assert gpus == ["0"]
        while worker.once():
            pass
        assert jobs.get(job.id).status == "scoring"
        assert jobs.get(job.id).progress.shards_done == 0
    while worker.once():
        pass
    assert jobs.get(job.id).status == "succeeded"
    with pool[1].idle(1) as gpus:  # an idle worker holds none
        assert gpus == ["0"]

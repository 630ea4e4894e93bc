"""Nodes of a job's graph, kinds of artefacts, and the tasks that make their parts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pruner.corpus.plan_rows import column
from pruner.tables.storage import Storage
from service.contract.names import Resource, Status

if TYPE_CHECKING:
    from scorer.engine.model_loader import ModelLoader
    from service.kinds.job_files import JobFiles
    from service.kinds.pool_gpus import PoolGpus


@dataclass(frozen=True)
class Node:
    """One artefact of a job: done when all its part files exist. `name` is its kind, or `<kind>/<which>`."""

    name: str
    resource: Resource
    status: Status  # of the job while this node is made
    paths: Sequence[str]  # the part files
    needs: tuple[str, ...] = ()  # names of the nodes that must be done before

    @property
    def kind(self) -> str:
        """The name of its kind."""
        return self.name.partition("/")[0]

    @property
    def which(self) -> str:
        """What its name says after the kind, such as the scorer; "" for nothing."""
        return self.name.partition("/")[2]


class ShardPaths(Sequence[str]):
    """A file for each shard of a planned job, in a folder that jobs over the same shards share.

    The plan is read when a path is asked for, since that of a large corpus takes seconds.
    """

    def __init__(self, folder: str, job: "JobFiles") -> None:
        self.folder = folder
        self._job = job

    def __len__(self) -> int:
        return self._job.corpus.shards if self._job.corpus is not None else 0

    def __getitem__(self, part: Any) -> Any:
        return f"{self.folder}/{self._job.plan.shards[part].digest}.parquet"

    def __iter__(self) -> Iterator[str]:
        return (f"{self.folder}/{digest}.parquet" for digest in column(self._job.plan.shards, "digest"))


class InputsGone(Exception):
    """A file that the task needs was there and has been removed: it must be made again."""


class Busy(Exception):
    """Another process of this machine makes the same part: look again later."""


class Counts(NamedTuple):
    """What a task adds to the counters of its node; `fresh` if the part was not there before."""

    counters: Mapping[str, int] = MappingProxyType({})
    fresh: bool = False


class Beat(Protocol):
    """Signs of life of a task. A call and `allow` may raise, to end the task."""

    def __call__(
        self, documents: int = 0, tokens: int = 0, tokens_total: int = 0, files: int = 0, files_total: int = 0
    ) -> None:
        """Between two pieces of work: how much of the task is done, and the tokens in all if they are known.

        Of a task that plans a corpus, the files that it has looked into, and those that it has listed.
        Other tasks may run inside this call.
        """

    def show_bins(self, bins: Mapping[int, tuple[int, int]]) -> None:
        """Documents and tokens that are scored so far, by bin of ln(perplexity), for readers of the job."""

    def allow(self, seconds: float) -> AbstractContextManager[None]:
        """Lets more time than a lease's length pass between two signs of life inside the block."""


@dataclass
class Task:
    """What the run of a part is given."""

    job: "JobFiles"
    node: Node
    part: int
    beat: Beat
    models: "ModelLoader"
    read_ahead: Any = field(default=lambda: None)  # called once when all input is read: the next task may be prepared
    prepared: Any = None  # what `prepare` of its kind returned
    gpus: "PoolGpus | None" = None  # of a worker of a pool with several GPUs on this host

    @property
    def path(self) -> str:
        """The part's file."""
        return self.node.paths[self.part]

    @property
    def storage(self) -> Storage:
        """The workspace's storage."""
        return self.job.workspace.storage


class Kind(Protocol):
    """A kind of artefact: a module of service.kinds. A kind may also have `prepare(task)`, see scores.py."""

    def nodes(self, job: "JobFiles") -> Iterable[Node]:
        """The nodes of this kind in a job's graph, as far as they can be named by what is done."""

    def run(self, task: Task) -> Counts:
        """Makes a part. It may run again at any time, and in two processes at once: its file appears whole, and the
        same. Raises InputError or BadReference where the user is at fault.
        """

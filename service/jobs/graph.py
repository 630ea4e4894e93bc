"""The graph of a job's artefacts: which nodes it has, and which are to be made next. Derived from files alone."""

from collections.abc import Sequence
from typing import NamedTuple

from service.contract.names import Status
from service.kinds import KINDS
from service.kinds.job_files import JobFiles
from service.kinds.node import Node

_LOOKS_MAX = 10  # each needs a record that appears in the moment of the one before


class Ready(NamedTuple):
    """A node whose needs are done, and the parts of it that are missing."""

    node: Node
    missing: Sequence[int]


class Graph:
    """The nodes of a job, as far as they can be named by now."""

    def __init__(self, job: JobFiles) -> None:
        self.job = job
        self.nodes = {node.name: node for kind in KINDS.values() for node in kind.nodes(job)}
        self._missing: dict[str, Sequence[int]] = {}

    def missing(self, node: Node) -> Sequence[int]:
        """The missing parts of a node, looked up once."""
        if node.name not in self._missing:
            self._missing[node.name] = self.job.workspace.storage.missing(node.paths)
        return self._missing[node.name]

    def ready(self) -> list[Ready]:
        """What is to be made next, in the order of the kinds; nothing when the job is complete.

        Only what some target lacks is looked at: the parts of an artefact may be removed once what needs it is done.
        """
        needed = {name for node in self.nodes.values() for name in node.needs}
        wanted = [name for name in self.nodes if name not in needed]
        found: dict[str, Ready] = {}
        seen = set[str]()
        while wanted:
            name = wanted.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self.nodes[name]
            if missing := self.missing(node):
                lacking = [need for need in node.needs if self.missing(self.nodes[need])]
                if lacking:
                    wanted += lacking
                else:
                    found[name] = Ready(node, missing)
        return [found[name] for name in self.nodes if name in found]

    @property
    def complete(self) -> bool:
        """Whether all that the job asks for is there."""
        target = "report" if self.job.selections else "index"
        return target in self.nodes and not self.ready()

    @property
    def status(self) -> Status:
        """The status of a job that has not ended and has been looked at by a worker."""
        ready = self.ready()
        return ready[0].node.status if ready else "selecting"


def look(job: JobFiles) -> Graph:
    """The graph of a job that is complete or has something ready.

    A record that another worker writes after the nodes were named, and before its file was looked for, hides the nodes
    that are named by it: nothing would be ready then. So the graph is made again.
    """
    for _ in range(_LOOKS_MAX):
        graph = Graph(job)
        if graph.ready() or graph.complete:
            return graph
    raise RuntimeError(f"job {job.record.id} has nothing to do, and is not complete")


def find_node(job: JobFiles, name: str) -> Node | None:
    """The node of this name in a job's graph, or None."""
    kind = KINDS.get(name.partition("/")[0])
    return None if kind is None else next((node for node in kind.nodes(job) if node.name == name), None)

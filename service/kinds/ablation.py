"""Kind `ablation`: proxy models trained on several selections and compared.

An ablation has a node for its plan, which prepares the tokens, one for its runs, and one for the comparison. With a
budget, a node after the runs decides which runs come next, until none does.
"""

from collections.abc import Iterator

from service.kinds import ablation_data, ablation_end, ablation_run, selection
from service.kinds.ablation_end import RESULT, find
from service.kinds.ablation_plan import PLAN, AblationPlan, find_plan, folder, round_path, rounds, run_path
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Node, Task
from service.store.records import WantedAblation

__all__ = ["find", "node_name", "nodes", "run"]


def node_name(wanted: WantedAblation, step: str = "") -> str:
    """The name of an ablation's last node, or of that of a step: `plan`, `runs-<round>`, `round-<round>`."""
    return f"ablation/{wanted.id}/{step}".rstrip("/")


def nodes(job: JobFiles) -> Iterator[Node]:
    """The nodes of all ablations that the job is to make."""
    if not job.named:
        return
    for wanted in job.ablations:
        last = node_name(wanted, "plan")
        needs = ("corpus", "index", *dict.fromkeys(map(selection.node_name, wanted.needed)))
        yield Node(last, "gpu", "training", [f"{folder(job, wanted)}/{PLAN}"], needs)
        plan = find_plan(job, wanted)
        if plan is not None:
            for node in _rounds(job, wanted, plan, last):
                yield node
                last = node.name
        # If the plan appears between two looks for it, this node is ready too early: its run then raises InputsGone.
        yield Node(node_name(wanted), "light", "selecting", [f"{folder(job, wanted)}/{RESULT}"], (last,))


def _rounds(job: JobFiles, wanted: WantedAblation, plan: AblationPlan, last: str) -> Iterator[Node]:
    """The runs, and with a budget the decisions after them, each after the one before."""
    for number, keys in enumerate(rounds(job, wanted, plan)):
        paths = [run_path(job, wanted, plan, key) for key in keys]
        yield (made := Node(node_name(wanted, f"runs-{number}"), "gpu", "training", paths, (last,)))
        last = made.name
        if plan.settings.budget is not None:
            path = round_path(job, wanted, number)
            yield (made := Node(node_name(wanted, f"round-{number}"), "light", "training", [path], (last,)))
            last = made.name


def run(task: Task) -> Counts:
    """Makes a part of an ablation. Raises InputError, BadReference and InputsGone."""
    ablation_id, _, step = task.node.which.partition("/")
    wanted = next((wanted for wanted in task.job.ablations if wanted.id == ablation_id), None)
    if wanted is None:
        raise InputsGone(ablation_id)
    if step == "plan":
        return ablation_data.prepare(task, wanted)
    plan = find_plan(task.job, wanted)
    if plan is None:
        raise InputsGone("the plan of the ablation")
    kind, _, number = step.partition("-")
    if kind == "runs":
        return ablation_run.run(task, wanted, plan, rounds(task.job, wanted, plan)[int(number)][task.part])
    if kind == "round":
        return ablation_end.decide(task, wanted, plan, int(number))
    return ablation_end.compare(task, wanted, plan)

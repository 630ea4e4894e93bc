"""The end of an ablation: decides on further runs within a budget, and compares all runs."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pruner.ablation.compare import ALL, SHARES, Comparison, RunKey, Runs
from pruner.ablation.recommend import Conditions, is_clear, recommend
from pruner.ablation.result import AblationResult
from pruner.tables.records import Record
from service.kinds import index
from service.kinds.ablation_plan import VERSION, AblationPlan, Round, folder, key_of, rounds
from service.kinds.ablation_run import read_items, read_run
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Task
from service.store.records import WantedAblation

RESULT, RUNS = "ablation.json", "runs.parquet"
_FACTORS = (1 / 4, 1 / 16)  # of the learning rate, that the order of the arms is checked at
_SILENCE_SECONDS = 120.0


class DoneAblation(Record):
    """`ablation/<key>/ablation.json`, with the format of a record."""

    result: AblationResult


def find(job: JobFiles, wanted: WantedAblation) -> AblationResult | None:
    """A complete ablation, or None while it is not complete."""
    done = job.workspace.records.recall(DoneAblation, f"{folder(job, wanted)}/{RESULT}")
    return None if done is None else done.result


def runs_path(job: JobFiles, wanted: WantedAblation) -> str:
    """The table of all runs and their measures."""
    return f"{folder(job, wanted)}/{RUNS}"


def compare(task: Task, wanted: WantedAblation, plan: AblationPlan) -> Counts:
    """Writes the table of runs, and the comparison last."""
    job = task.job
    with task.beat.allow(_SILENCE_SECONDS):
        decided = rounds(job, wanted, plan)
        comparison = _comparison(job, wanted, plan, [key for keys in decided for key in keys])
        about = index.find(job)
        settings = plan.settings
        warnings = list(plan.warnings)
        if settings.budget is not None and len(decided) == 1:
            warnings.append(
                f"{settings.budget:g} minutes are too few for the check at other learning rates and for more seeds: "
                "raise --budget"
            )
        conditions = Conditions(
            f"{settings.preset} proxies of {_millions(settings.parameters)} parameters", settings.tokens, _target(plan)
        )
        _write_runs(task, wanted, comparison)
        result = AblationResult(
            key=key_of(job, wanted),
            measure=plan.measure,
            arms=comparison.results(plan.overlap),
            noise=comparison.noise(),
            learning_rates=comparison.rate_checks(),
            recommendation=recommend(comparison, conditions, len(decided)),
            warnings=warnings,
            settings=wanted.options.model_dump() | settings.model_dump(exclude={"format"}) | _measured(comparison),
            provenance=(about.provenance if about is not None else {})
            | {"ablation": {"version": VERSION, "heldout_and_tasks": wanted.files}},
        )
        job.workspace.records.write(task.path, DoneAblation(result=result))
    return Counts(fresh=True)


def decide(task: Task, wanted: WantedAblation, plan: AblationPlan, number: int) -> Counts:
    """Decides which runs come after a round, within the budget.

    First the two best selections, `all` and their random arms are run at lower learning rates; then they get a seed
    more each round, until the best one is clear.
    """
    job = task.job
    if task.storage.exists(task.path):
        return Counts()
    keys = [key for decided in rounds(job, wanted, plan)[: number + 1] for key in decided]
    comparison = _comparison(job, wanted, plan, keys)
    best = comparison.ranked()[:2]
    arms = [ALL, *dict.fromkeys(arm.control or ALL for arm in best), *(arm.name for arm in best)]
    if number == 0:
        more = [RunKey(arm, 0, factor) for factor in _FACTORS for arm in arms]
    else:
        seed = len(comparison.seeds(best[0].name)) if best else 0
        done = not best or is_clear(comparison, best[0], number + 1) or seed >= plan.seeds_prepared
        more = [] if done else [RunKey(arm, seed) for arm in arms]
    if not fits(comparison.runs, plan.runs, len(more), plan.settings.budget or 0.0):
        more = []
    job.workspace.records.write(task.path, Round(runs=tuple(more)))
    return Counts(fresh=True)


def fits(runs: Runs, first: Sequence[RunKey], more: int, minutes: float) -> bool:
    """Whether so many more runs end within the minutes, which are for those after the first ones."""
    spent = sum(run.seconds for key, run in runs.items() if key not in first)
    each = sum(run.seconds for run in runs.values()) / len(runs)
    return spent + each * more <= 60 * minutes


def _comparison(job: JobFiles, wanted: WantedAblation, plan: AblationPlan, keys: list[RunKey]) -> Comparison:
    runs = {}
    for key in keys:
        found = read_run(job, wanted, plan, key)
        if found is None:
            raise InputsGone(f"the run of {key.arm}, seed {key.seed}")
        runs[key] = found
    return Comparison(plan.arms, read_items(job, wanted), runs, plan.measure, plan.settings.share)


def _write_runs(task: Task, wanted: WantedAblation, comparison: Comparison) -> None:
    """A row for each run, checkpoint and measure."""
    rows = [
        {"arm": key.arm, "seed": key.seed, "learning_rate_factor": key.factor, "tokens": run.tokens[number]}
        | {"share": share, "passes": run.passes, "measure": measure.kind, "name": measure.name}
        | {"bits_per_byte": measure.bits_per_byte, "accuracy": measure.accuracy}
        for key, run in sorted(comparison.runs.items())
        for number, share in enumerate(SHARES)
        for measure in comparison.measures(run, number)
    ]
    schema = pa.schema(
        [
            ("arm", pa.string()),
            ("seed", pa.int64()),
            ("learning_rate_factor", pa.float64()),
            ("tokens", pa.int64()),
            ("share", pa.float64()),
            ("passes", pa.float64()),
            ("measure", pa.string()),
            ("name", pa.string()),
            ("bits_per_byte", pa.float64()),
            ("accuracy", pa.float64()),
        ]
    )
    with task.storage.create(runs_path(task.job, wanted)) as out:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), out, compression="zstd")


def _measured(comparison: Comparison) -> dict[str, int]:
    """How much text the runs are measured on, which is at most a part of large held-out files and tasks."""
    is_task = comparison.items.is_task
    return {"heldout_documents": int((~is_task).sum()), "questions": int(is_task.sum())}


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"


def _target(plan: AblationPlan) -> str:
    settings = plan.settings
    target = ""
    if settings.target_tokens is not None:
        target = f", for a target of {settings.target_tokens:,} tokens"
        if settings.target_parameters is not None:
            target += f" and {settings.target_parameters:,} parameters"
    return target

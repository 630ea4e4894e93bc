"""The plan of an ablation: its settings as resolved, its arms, its runs, and where its files lie."""

from typing import Literal

from pruner.ablation.compare import Arm, RunKey
from pruner.ablation.result import MeasureName
from pruner.tables.records import Record
from scorer.training.names import OptimizerName, Preset
from service.contract.ablations import AblationEstimate, Regime
from service.kinds import selection
from service.kinds.job_files import JobFiles
from service.store.records import WantedAblation
from service.store.workspace import digest

VERSION = 3  # raised when a change of the code changes the results of ablations

PLAN, TOKENS, READINGS = "plan.json", "tokens.bin", "readings.npz"
TEXTS, ITEMS, TOKENIZER = "texts.parquet", "items.parquet", "tokenizer.json"


class AblationSettings(Record):
    """What all runs have in common."""

    preset: Preset
    device: Literal["cpu", "cuda"]
    optimizer: OptimizerName
    tokens: int  # of a run
    parameters: int  # of a proxy with a full vocabulary
    seeds: int
    regime: Regime
    target_tokens: int | None
    target_parameters: int | None
    share: float  # of the documents that a run's sub-pool is drawn from
    vocabulary: int  # rows
    distinct: int  # tokens of the sub-pool of `all`
    budget: float | None  # minutes


class AblationPlan(Record):
    """`ablation/<key>/plan.json`: written when the tokens and texts beside it are there."""

    settings: AblationSettings
    measure: MeasureName
    arms: tuple[Arm, ...]
    seeds_prepared: int  # an arm has no more runs than these
    overlap: dict[str, dict[str, float]]  # by arm and task
    warnings: tuple[str, ...]
    estimate: AblationEstimate

    @property
    def runs(self) -> tuple[RunKey, ...]:
        """The runs of all arms."""
        return tuple(RunKey(arm.name, seed) for seed in range(self.settings.seeds) for arm in self.arms)


class Round(Record):
    """`ablation/<key>/round-<number>.json`: the runs that follow within the budget. Without any the ablation ends."""

    runs: tuple[RunKey, ...]


class RunTime(Record):
    """`ablation/<key>/runs/<name>.json`: how long a run took."""

    seconds: float


def folder(job: JobFiles, wanted: WantedAblation) -> str:
    """Where an ablation lies. Raises FileNotFoundError for a job that has no scores to come yet."""
    return f"ablation/{key_of(job, wanted)}"


def key_of(job: JobFiles, wanted: WantedAblation) -> str:
    """The digest of all inputs and options of an ablation."""
    inputs = [selection.folder(job, spec) for spec in wanted.needed]
    corpus = job.record.request.corpus.model_dump()
    return digest("ablation", VERSION, inputs, corpus, wanted.options.model_dump(), wanted.files)


def find_plan(job: JobFiles, wanted: WantedAblation) -> AblationPlan | None:
    """The plan, or None while it is not there."""
    return job.workspace.records.recall(AblationPlan, f"{folder(job, wanted)}/{PLAN}")


def rounds(job: JobFiles, wanted: WantedAblation, plan: AblationPlan) -> list[tuple[RunKey, ...]]:
    """The runs of each round that has been decided. Without a budget there is one."""
    found = [plan.runs]
    if plan.settings.budget is not None:
        while (decided := job.workspace.records.recall(Round, round_path(job, wanted, len(found) - 1))) is not None:
            if not decided.runs:
                break
            found.append(decided.runs)
    return found


def round_path(job: JobFiles, wanted: WantedAblation, number: int) -> str:
    """The decision after a round."""
    return f"{folder(job, wanted)}/round-{number}.json"


def run_path(job: JobFiles, wanted: WantedAblation, plan: AblationPlan, key: RunKey) -> str:
    """The losses of a run."""
    arm = [each.name for each in plan.arms].index(key.arm)
    return f"{folder(job, wanted)}/runs/{arm}-{key.seed}-{key.factor:g}.parquet"

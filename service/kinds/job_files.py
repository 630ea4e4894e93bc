"""A job and what is known of its artefacts: the records that its files hold, read once a process."""

from functools import cached_property, lru_cache

from pruner.corpus.plan import Plan
from pruner.corpus.plan_file import read_plan
from pruner.corpus.train_split import Split
from pruner.spec import SelectionSpec
from service.contract.scorers import ScorerSpec
from service.store.records import CorpusRecord, JobRecord, ModelRecord, Outcome, WantedAblation, WantedExport
from service.store.workspace import Workspace, digest

TRAINER = 7  # version of the kind `model`: raised when a change of the code changes trained references
_PLANS = 4  # that a process keeps; one of 200,000 shards takes some 100 MB


class JobFiles:
    """A job as the kinds of artefacts see it."""

    def __init__(self, workspace: Workspace, record: JobRecord) -> None:
        self.workspace = workspace
        self.record = record

    @property
    def corpus(self) -> CorpusRecord | None:
        """What planning found, or None while it has not ended."""
        record = self.record
        return self.workspace.records.recall(CorpusRecord, self.corpus_path, record.created_at)

    @property
    def corpus_path(self) -> str:
        """The file of the corpus record."""
        return self.workspace.path(self.record.id, "corpus.json")

    @property
    def plan(self) -> Plan:
        """The corpus' files and shards. Raises FileNotFoundError where they are not there."""
        return _plan(self.workspace.storage, self.plan_path)

    @property
    def plan_path(self) -> str:
        """The file of the plan. Raises FileNotFoundError while it is not known."""
        if self.corpus is None:
            raise FileNotFoundError("the job's plan is not in the workspace")
        return self.corpus.plan or f"corpus/{self.corpus.digest}/plan.parquet"

    @property
    def train_split(self) -> Split | None:
        """The documents that train the reference and are in no selection; None where it is not trained."""
        train = self.record.request.train
        return Split(train.seed, train.fraction) if train is not None else None

    @property
    def model(self) -> ModelRecord | None:
        """The reference, or None while it is not known or not trained."""
        path = self.model_path
        return None if path is None else self.workspace.records.recall(ModelRecord, path, self.record.created_at)

    @property
    def model_path(self) -> str | None:
        """The file of the model record, or None while that cannot be told."""
        if self.outcome is not None and self.outcome.model is not None:
            return self.outcome.model
        request = self.record.request
        if request.reference is None:
            return None
        train = request.train
        if train is None:
            return self.workspace.path(self.record.id, "model.json")
        if self.corpus is None:
            return None
        key = digest("model", TRAINER, self.corpus.digest, train.model_dump())
        return f"model/{key}/model.json"

    @property
    def scorers(self) -> dict[str, ScorerSpec]:
        """The further scorers by name."""
        return self.record.request.scores

    def scorer_model_path(self, name: str) -> str:
        """The file of the model record of a further scorer."""
        return self.workspace.path(self.record.id, f"models/{name}.json")

    def scorer_model(self, name: str) -> ModelRecord | None:
        """The model of a further scorer, or None while it is not known, and of a field."""
        return self.workspace.records.recall(ModelRecord, self.scorer_model_path(name), self.record.created_at)

    @property
    def named(self) -> bool:
        """Whether the plan and all models are known, by which the scores and what comes of them are named."""
        models = [self.model] if self.record.request.reference is not None else []
        models += [self.scorer_model(name) for name, spec in self.scorers.items() if spec.model is not None]
        return self.corpus is not None and None not in models

    @cached_property
    def outcome(self) -> Outcome | None:
        """How the job ended, or None while it has not."""
        path = self.workspace.path(self.record.id, "outcome.json")
        return self.workspace.records.recall(Outcome, path, self.record.created_at)

    @cached_property
    def selections(self) -> list[SelectionSpec]:
        """The selections that the job is to make."""
        return self.workspace.wanted(self.record)

    @cached_property
    def exports(self) -> list[WantedExport]:
        """The exports that the job is to make, without those that have failed."""
        found = self.workspace.exports(self.record)
        failed = self.workspace.failed_exports(self.record.id) if found else {}
        return [wanted for wanted in found if wanted.id not in failed]

    @cached_property
    def ablations(self) -> list[WantedAblation]:
        """The ablations that the job is to make, without those that have failed or were cancelled."""
        found = self.workspace.ablations(self.record)
        failed = self.workspace.failed_ablations(self.record.id) if found else {}
        return [wanted for wanted in found if wanted.id not in failed]

    @property
    def needed_selections(self) -> list[SelectionSpec]:
        """The selections of the job, and those that its exports and ablations need besides."""
        of_exports = [wanted.spec for wanted in self.exports]
        of_ablations = [spec for wanted in self.ablations for spec in wanted.needed]
        return list(dict.fromkeys([*self.selections, *of_exports, *of_ablations]))


_plan = lru_cache(maxsize=_PLANS)(read_plan)  # a plan never changes

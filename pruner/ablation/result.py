"""`ablation.json`: what an ablation found, arm by arm, and its recommendation."""

from typing import Any, Literal

from pydantic import BaseModel, Field

MeasureName = Literal["heldout", "tasks"]


class Interval(BaseModel):
    """A difference between two arms, and its 95 % interval, null with one seed. Negative is better."""

    value: float
    low: float | None = None
    high: float | None = None


class TaskScore(BaseModel):
    """How well an arm's models do on a task."""

    bits_per_byte: float = Field(description="Of the right answer, mean over items.")
    accuracy: float | None = Field(description="Null where it is not above chance by two standard errors.")
    chance: float | None = Field(description="The accuracy of guessing; null where items have one answer alone.")
    overlap: float = Field(description="Share of the items with 13 words in a row that are in the arm's documents.")


class CurvePoint(BaseModel):
    """The measure of a run that ends after so many tokens, its learning rate decayed; mean over seeds."""

    tokens: int
    value: float


class ArmResult(BaseModel):
    """One arm. `tokens_seen`, `bytes_seen` and `passes` are those of one run, mean over seeds."""

    name: str
    documents: int
    tokens_seen: int
    bytes_seen: int
    passes: float
    seeds: int
    value: float
    heldout: dict[str, float]
    tasks: dict[str, TaskScore]
    difference: Interval
    random: str | None = Field(None, description="The arm of as many random documents.")
    against_random: Interval | None = None
    steps_to_baseline: float | None
    differences: dict[str, Interval] = Field(description="By domain and task, against `all`.")
    curve: list[CurvePoint]


class Noise(BaseModel):
    """The noise floor: the difference of `all` and an arm of the same distribution."""

    arm: str
    difference: Interval
    detectable: float | None = Field(description="The smallest difference that these seeds could have shown.")


class RateCheck(BaseModel):
    """The measure of an arm at another learning rate, `factor` times the preset's."""

    arm: str
    factor: float
    seed: int
    value: float


class Recommendation(BaseModel):
    """One sentence with its conditions; `selection` is null where nothing is recommended."""

    selection: str | None
    text: str


class AblationResult(BaseModel):
    """`ablation.json`. The same ablation has the same content, unless a budget of minutes ends it."""

    key: str
    measure: MeasureName
    arms: list[ArmResult]
    noise: Noise
    learning_rates: list[RateCheck]
    recommendation: Recommendation
    warnings: list[str]
    settings: dict[str, Any]
    provenance: dict[str, Any]

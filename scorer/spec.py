"""Request models: which reference scores, how one is trained, and how documents are scored. Imports no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scorer.training.names import Preset


class RequestModel(BaseModel):
    """A request: unknown fields are errors, and no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)  # else `false` would do for 0


class TrainSpec(RequestModel):
    """A reference trained on a seeded fraction of the corpus' documents, which the selections leave out."""

    preset: Preset = "tiny"
    tokens: int = Field(
        2_000_000,
        ge=1_000,
        le=1_000_000_000_000,
        description="Tokens to train on; no text is read more than four times.",
    )
    fraction: float = Field(0.1, gt=0, lt=1, description="The share of the corpus' documents that trains.")
    seed: int = Field(0, ge=0, lt=2**63)


class ReferenceSpec(RequestModel):
    """Either `model`, a local folder or hub id, or `train`."""

    model: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    train: TrainSpec | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "ReferenceSpec":
        if (self.model is None) == (self.train is None):
            raise ValueError("give either 'model' (a folder or hub id) or 'train' (a preset), and not both")
        return self


class ScoringSpec(RequestModel):
    """How documents are scored. The defaults are right for nearly everyone."""

    stride: int | None = Field(
        None, ge=1, description="New tokens a window, for references with a context limit; by default no overlap."
    )
    dtype: Literal["auto", "float32", "bfloat16", "fp8"] = Field(
        "auto",
        description="Of the matrix products; auto is bfloat16 on a GPU and float32 on a CPU. fp8 is for Hopper GPUs:"
        " the job fails elsewhere, and where the reference would put documents in another order than in bfloat16.",
    )

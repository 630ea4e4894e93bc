"""What a trained reference has read, and how well it predicts text that it has not. Imports no torch."""

from pydantic import BaseModel, ConfigDict, Field

# Models of this kind use about 20 tokens for each parameter best (Hoffmann et al., https://arxiv.org/abs/2203.15556).
_TOKENS_PER_PARAMETER_MIN = 5


class TrainingSummary(BaseModel):
    """How a reference was trained."""

    model_config = ConfigDict(frozen=True)

    tokens: int = Field(description="Tokens that were read in training, each pass counted.")
    distinct_tokens: int = Field(description="Tokens of the text that was read.")
    passes: float = Field(description="How often the text was read: tokens / distinct_tokens.")
    heldout_bits_per_byte: float | None = Field(
        description="Loss on documents of the split that were not trained on; null where it has too few documents."
    )
    heldout_documents: int = Field(description="How many documents of the split were not trained on, but measured.")
    processes: int = Field(1, description="Processes that shared each batch, each on a GPU of its own.")
    warning: str | None = Field(description="Set where the reference has read too little for its size.")


def too_little(tokens: int, inner_parameters: int) -> str | None:
    """A warning where a model has read few tokens for its parameters, those for each vocabulary entry left aside."""
    wanted = _TOKENS_PER_PARAMETER_MIN * inner_parameters
    if tokens >= wanted:
        return None
    wanted = round(wanted, 2 - len(str(wanted)))
    return (
        f"The reference was trained on {tokens:,} tokens, which is too little for its size: its scores may say little "
        f"about quality. Train on {wanted:,} tokens or more, with a larger fraction of a larger corpus, or name a "
        "trained model"
    )

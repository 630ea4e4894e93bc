"""Quotas: limits on what one owner may have unfinished at a time."""

from pydantic import BaseModel, ConfigDict, Field

RETRY_SECONDS = 10  # told to a refused caller: jobs end at any moment
_UNITS = {"jobs": "unfinished jobs", "shards": "shards to score", "bytes": "bytes of text to score"}


class QuotaExceeded(Exception):
    """The owner has as much unfinished as the limit named `quota` allows. The message is one line."""

    def __init__(self, quota: str, used: int, limit: int) -> None:
        super().__init__(f"you have {used:,} {_UNITS[quota]} and the quota is {limit:,}: wait until some are done")
        self.quota = quota


class Usage(BaseModel):
    """What an owner has unfinished."""

    jobs: int = 0
    shards: int = 0
    bytes: int = 0


class Quotas(BaseModel):
    """The limits of each owner; None is no limit."""

    model_config = ConfigDict(frozen=True)

    jobs: int | None = Field(None, ge=1)
    shards: int | None = Field(None, ge=1)
    bytes: int | None = Field(None, ge=1)

    def check(self, used: Usage) -> None:
        """Raises QuotaExceeded where one more job would be too much."""
        for quota, limit in self.model_dump(exclude_none=True).items():
            if getattr(used, quota) >= limit:
                raise QuotaExceeded(quota, getattr(used, quota), limit)

    def too_large(self, shards: int, text_bytes: int) -> str | None:
        """Why a job of this size can never be done, or None if it can."""
        for quota, size, limit in (("shards", shards, self.shards), ("bytes", text_bytes, self.bytes)):
            if limit is not None and size > limit:
                return f"the corpus has {size:,} {_UNITS[quota]} and the quota is {limit:,}: split it into several jobs"
        return None

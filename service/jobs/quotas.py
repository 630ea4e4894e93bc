"""Quotas: what one owner may have unfinished at a time. Owners are names; None is whoever needs none."""

from pydantic import BaseModel, ConfigDict, Field

from service.queue.leases import Queue

RETRY_SECONDS = 10  # told to who is refused: jobs end at any moment
_WHAT = {"jobs": "unfinished jobs", "shards": "shards to score", "bytes": "bytes of text to score"}


class QuotaExceeded(Exception):
    """The owner has as much unfinished as the limit named `quota` allows. The message is one line."""

    def __init__(self, quota: str, used: int, limit: int) -> None:
        super().__init__(f"you have {used:,} {_WHAT[quota]} and the quota is {limit:,}: wait until some are done")
        self.quota = quota


class Quotas(BaseModel):
    """The limits of each owner; None is no limit."""

    model_config = ConfigDict(frozen=True)

    jobs: int | None = Field(None, ge=1)
    shards: int | None = Field(None, ge=1)
    bytes: int | None = Field(None, ge=1)

    def admit(self, queue: Queue, job_id: str, owner: str | None) -> None:
        """Counts a new job in, unless it is. Until it is planned it has no shards. Raises QuotaExceeded."""
        limits = self.model_dump(exclude_none=True)
        reached = queue.admit(job_id, owner, limits)
        if reached is not None:
            quota, used = reached
            raise QuotaExceeded(quota, used, limits[quota])

    def too_large(self, shards: int, text_bytes: int) -> str | None:
        """Why a job of this size can never be done, or None if it can."""
        for quota, size, limit in (("shards", shards, self.shards), ("bytes", text_bytes, self.bytes)):
            if limit is not None and size > limit:
                return f"the corpus has {size:,} {_WHAT[quota]} and the quota is {limit:,}: split it into several jobs"
        return None

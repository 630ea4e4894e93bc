"""Settings of the service and its workers: flags of the command line, or environment variables `WINNOW_*`."""

import os
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.connection import parse_url

from pruner.corpus.paths import EVERYWHERE, Roots
from pruner.errors import InputError
from service.contract.network import is_loopback
from service.contract.permissions import Rules, named_model

Names = Annotated[tuple[str, ...], NoDecode]  # flags that may be repeated, or one variable with commas between
Stage = Literal["plan", "train", "score", "select"]
Device = Literal["auto", "cpu", "cuda"]
STAGES: tuple[Stage, ...] = ("select", "plan", "score", "train")  # the order in which a worker looks for work


class Keep(NamedTuple):
    """How long ended jobs and scores are kept, and how many bytes all jobs and scores may have; None: for ever, any."""

    days: float | None = None
    bytes: int | None = None


class Settings(BaseSettings):
    """What `winnow serve` and `winnow worker` are told; each field is also the variable `WINNOW_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="WINNOW_", extra="ignore")

    workspace: str = Field(min_length=1, description="Folder or fsspec URL of all that must not be lost.")
    redis: str | None = Field(None, description="URL of a Redis; without one, `serve` starts a private one.")
    ray: str | None = Field(None, description="Address of the Ray cluster on which `pool` keeps its workers.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    corpus_root: Names = Field(
        (), validate_default=True, description="Folders and URLs that corpora may be read under; repeatable."
    )
    model_root: Names = Field((), description="Folders that reference models may be read under; repeatable.")
    model: Names = Field((), description="Models that jobs may name: NAME=FOLDER, NAME=HUB-ID or HUB-ID; repeatable.")
    workers: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Scoring workers of `serve` (by default one a GPU, else one) or `pool`.",
    )
    device: Device = Field("auto", description="Where references run; auto takes a GPU if there is one.")
    keep_days: float | None = Field(None, gt=0, description="Age at which ended jobs and scores are removed.")
    keep_gib: float | None = Field(None, gt=0, description="Size over which the oldest of them are removed.")
    quota_jobs: int | None = Field(None, ge=1, description="Jobs that one owner may have unfinished.")
    quota_shards: int | None = Field(None, ge=1, description="Shards that one owner's jobs may have to score.")
    quota_bytes: int | None = Field(None, ge=1, description="Bytes of text that one owner's jobs may have to score.")
    lease_seconds: float = Field(
        15.0, ge=0.5, le=3600, description="Silence after which a worker's task is given away."
    )
    stages: Annotated[tuple[Stage, ...], NoDecode] = Field(
        STAGES, min_length=1, description="Stages that a worker takes."
    )
    alive_file: str | None = Field(None, description="File that a worker touches while it does not hang, for probes.")

    @field_validator("stages", "corpus_root", "model_root", "model", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("corpus_root")
    @classmethod
    def _parsed(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value and not is_loopback(info.data.get("host", "")):
            raise ValueError("must be given where --host is not an address of this machine alone")
        try:
            return Roots(value).given or ()  # absolute, as workers elsewhere have other folders
        except InputError as error:
            raise ValueError(str(error)) from None

    @field_validator("redis")
    @classmethod
    def _redis_address(cls, value: str | None) -> str | None:
        if value is not None:
            parse_url(value)  # type: ignore[no-untyped-call]  # raises ValueError
        return value

    @field_validator("model_root")
    @classmethod
    def _absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(os.path.abspath(root) for root in value)  # noqa: PTH100 (no link is followed)

    @field_validator("model")
    @classmethod
    def _named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unnamed := [text for text in value if "=" in named_model(text)[0]]:
            raise ValueError(f"{unnamed[0]!r} is none: give NAME=FOLDER, NAME=HUB-ID or HUB-ID")
        return value

    @field_validator("stages")
    @classmethod
    def _in_order(cls, value: tuple[Stage, ...]) -> tuple[Stage, ...]:
        return tuple(stage for stage in STAGES if stage in value)

    @property
    def public(self) -> bool:
        """Whether others than this machine's users can reach the address."""
        return not is_loopback(self.host)

    @property
    def rules(self) -> Rules:
        """What jobs may read. On an address of this machine alone, and told of nothing: what its user may."""
        closed = self.public or self.model or self.model_root
        return Rules(
            corpus_roots=self.corpus_root or EVERYWHERE,
            model_roots=self.model_root if closed else None,
            models=dict(named_model(text) for text in self.model),
        )

    @property
    def keep(self) -> Keep:
        """How long ended jobs and scores are kept."""
        return Keep(self.keep_days, None if self.keep_gib is None else int(self.keep_gib * (1 << 30)))

    def environment(self) -> dict[str, str]:
        """This process' environment with these settings in it, for a worker to read them from."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
        for name, value in self:
            if value is not None:
                mine[f"WINNOW_{name.upper()}"] = ",".join(value) if isinstance(value, tuple) else str(value)
        return mine

"""Settings of the service and its workers, from flags of the command line or environment variables `WINNOW_*`."""

import os
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pruner.corpus.paths import EVERYWHERE, Roots
from pruner.errors import InputError
from service.contract.names import RESOURCES, Device, Resource
from service.contract.network import is_loopback
from service.contract.permissions import Rules, parse_model_option

Names = Annotated[tuple[str, ...], NoDecode]  # a repeatable flag, or one variable with commas between the values
_REDIS_SCHEMES = ("redis", "rediss", "unix")


class RetentionPolicy(NamedTuple):
    """How long to keep ended jobs and scores, and the limit of their total size. None: no limit."""

    days: float | None = None
    bytes: int | None = None


class Settings(BaseSettings):
    """Settings of `winnow serve`, `worker`, `pool` and `clean`.

    Each field is also the environment variable `WINNOW_<FIELD>` and, in the commands that use it, the flag `--<field>`
    with its description as help.
    """

    model_config = SettingsConfigDict(env_prefix="WINNOW_", extra="ignore")

    workspace: str = Field(min_length=1, description="Folder or fsspec URL of everything that must not be lost.")
    redis: str | None = Field(
        None, description="URL of a Redis (redis://, rediss:// or unix://); default of serve: it starts a private one."
    )
    ray: str | None = Field(None, description="Ray cluster of the workers: host:port of its head, or auto.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: a free one.")
    corpus_root: Names = Field(
        (),
        validate_default=True,
        description="Folder or URL that corpora may be read from; repeatable (default on 127.0.0.1: all).",
    )
    export_root: Names = Field(
        (), description="Folder or URL that exports may be written to, besides the workspace; repeatable."
    )
    model_root: Names = Field((), description="Folder that reference models may be read from; repeatable.")
    model: Names = Field((), description="Model that jobs may name, as NAME=FOLDER, NAME=HUB-ID or HUB-ID; repeatable.")
    workers: int | None = Field(
        None, ge=0, le=1024, description="Workers that train and score; default of serve: one per GPU, or one."
    )
    device: Device = Field("auto", description="Device of the references; auto uses a GPU if there is one.")
    keep_days: float | None = Field(None, gt=0, description="Remove ended jobs and scores that are older.")
    keep_gib: float | None = Field(None, gt=0, description="Remove the oldest jobs and scores above this total size.")
    quota_jobs: int | None = Field(None, ge=1, description="Unfinished jobs that one owner may have.")
    quota_shards: int | None = Field(None, ge=1, description="Shards that one owner may have waiting to be scored.")
    quota_bytes: int | None = Field(
        None, ge=1, description="Bytes of text that one owner may have waiting to be scored."
    )
    lease_seconds: float = Field(
        15.0, ge=0.5, le=3600, description="Seconds without a heartbeat after which a worker loses its task."
    )
    resources: Annotated[tuple[Resource, ...], NoDecode] = Field(
        RESOURCES,
        min_length=1,
        description="Tasks that a worker takes: light (planning, selecting, reports), gpu (training, scoring).",
    )
    alive_file: str | None = Field(
        None, description="File that a worker touches about once a second unless it hangs, for liveness probes."
    )

    @field_validator("resources", "corpus_root", "export_root", "model_root", "model", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("corpus_root")
    @classmethod
    def _parse_roots(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value and not is_loopback(info.data.get("host", "")):
            raise ValueError("must be given where --host is not an address of this machine alone")
        try:
            return Roots(value).given or ()  # absolute: workers may run in another folder
        except InputError as error:
            raise ValueError(str(error)) from None

    @field_validator("export_root")
    @classmethod
    def _parse_export_roots(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return Roots(value).given or ()
        except InputError as error:
            raise ValueError(str(error)) from None

    @field_validator("redis")
    @classmethod
    def _check_redis_url(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in _REDIS_SCHEMES:
            raise ValueError("must be a redis://, rediss:// or unix:// URL")
        return value

    @field_validator("model_root")
    @classmethod
    def _make_absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(os.path.abspath(root) for root in value)  # noqa: PTH100 (links are not resolved)

    @field_validator("model")
    @classmethod
    def _check_models(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [text for text in value if "=" in parse_model_option(text)[0]]:
            raise ValueError(f"{wrong[0]!r} is not NAME=FOLDER, NAME=HUB-ID or HUB-ID")
        return value

    @field_validator("resources")
    @classmethod
    def _sort_resources(cls, value: tuple[Resource, ...]) -> tuple[Resource, ...]:
        return tuple(resource for resource in RESOURCES if resource in value)

    @property
    def public(self) -> bool:
        """Whether other machines can reach the address."""
        return not is_loopback(self.host)

    @property
    def rules(self) -> Rules:
        """What jobs may read. Default on a loopback address without roots: all that the service's user may read."""
        restricted = self.public or self.model or self.model_root
        return Rules(
            corpus_roots=self.corpus_root or EVERYWHERE,
            model_roots=self.model_root if restricted else None,
            export_roots=self.export_root,
            models=dict(parse_model_option(text) for text in self.model),
        )

    @property
    def retention(self) -> RetentionPolicy:
        """How long ended jobs and scores are kept."""
        return RetentionPolicy(self.keep_days, None if self.keep_gib is None else int(self.keep_gib * (1 << 30)))

    def environment(self) -> dict[str, str]:
        """The environment for a child process that reads these settings from it, with no other `WINNOW_*` variable."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
        for name, value in self:
            if value is not None:
                env[f"WINNOW_{name.upper()}"] = ",".join(value) if isinstance(value, tuple) else str(value)
        return env

"""Settings: from flags and the environment, checked with errors that name the field, passed on to child processes."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from service.run.settings import Settings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_LEASE_SECONDS", "3.5")
    monkeypatch.setenv("WINNOW_RESOURCES", "gpu, light")
    settings = Settings(workspace="/w")
    assert (settings.lease_seconds, settings.resources, settings.redis) == (3.5, ("light", "gpu"), None)


def test_a_child_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_REDIS", "redis://not-this-one")
    settings = Settings(workspace="/w", redis=None, workers=3, device="cpu", resources=("light",))
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WINNOW_REDIS")
    assert Settings() == settings


def test_an_unknown_resource_is_refused() -> None:
    with pytest.raises(ValidationError, match="'light' or 'gpu'"):
        Settings.model_validate({"workspace": "w", "resources": "light,heavy"})


def test_a_public_address_needs_roots() -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1", "winnow.example", ""):
        with pytest.raises(ValidationError, match="must be given where --host is not an address of this machine"):
            Settings(workspace="w", host=host)
        assert Settings(workspace="w", host=host, corpus_root=("/data",)).public
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert not Settings(workspace="w", host=host).public


@pytest.mark.parametrize(
    "root", ["/data/../etc", "ftp://host/x", "s3://key:secret@bucket", "zip::s3://b/a", "https://host/?x"]
)
def test_a_wrong_root_is_refused(root: str) -> None:
    with pytest.raises(ValidationError):
        Settings(workspace="w", corpus_root=("/data", root))


def test_roots_come_from_flags_and_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_CORPUS_ROOT", "/data, s3://bucket/pile")
    monkeypatch.setenv("WINNOW_MODEL", "small=/models/small,gpt2")
    made = Settings(workspace="w").rules
    assert made.corpus_roots == ("/data", "s3://bucket/pile")
    assert made.models == {"small": "/models/small", "gpt2": "gpt2"}
    assert made.model_roots == ()
    assert Settings(workspace="w", corpus_root=["/other"]).rules.corpus_roots == ("/other",)  # type: ignore[arg-type]


def test_settings_import_neither_fastapi_nor_redis_nor_torch() -> None:
    code = "import service.run.settings, sys; print(*{'fastapi', 'redis', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"

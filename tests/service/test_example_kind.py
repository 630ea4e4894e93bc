"""The example of a kind in CONTRIBUTING.md works as it is written there."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import service.kinds
from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs

GUIDE = (Path(__file__).parent.parent.parent / "CONTRIBUTING.md").read_text()
KIND, TEST = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def test_the_example_passes_its_own_test(
    jobs: Jobs,
    make_request: Callable[..., JobRequest],
    work_off: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = ModuleType("service.kinds.sizes")
    exec(KIND, sizes.__dict__)
    monkeypatch.setitem(sys.modules, sizes.__name__, sizes)
    monkeypatch.setattr(service.kinds, "sizes", sizes, raising=False)
    monkeypatch.setitem(service.kinds.KINDS, "sizes", sizes)  # type: ignore[arg-type]  # a module
    example: dict[str, Any] = {}
    exec(TEST, example)
    (test,) = (value for name, value in example.items() if name.startswith("test_"))
    test(jobs, make_request, work_off)

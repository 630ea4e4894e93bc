"""Runs the tests of Triton kernels, files `test_*_kernel.py`, in Triton's interpreter, each file in its own process.

Triton decides as it is imported whether functions are compiled or interpreted, and any earlier test may have imported
it. So a session without TRITON_INTERPRET=1 in its environment takes such a file as one test, `interpreted`, which runs
pytest on the file with the variable set and passes when all of it passes. To run or select tests inside such a file,
set the variable: `TRITON_INTERPRET=1 pytest tests/kernels/test_nll_kernel.py -k bias`. In the interpreter tensors live
on the CPU; products of float32 and float16 are right there, those of bfloat16 are not. One thread is enough.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


class InterpretedRun(pytest.Item):
    """One run of pytest on the file, with the interpreter on."""

    def runtest(self) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(self.path)]
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, cwd=self.config.rootpath, env=environment, capture_output=True, text=True)
        if ran.returncode != 0:
            pytest.fail(ran.stdout + ran.stderr, pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.nodeid


class InterpretedFile(pytest.File):
    """A file of kernel tests in a session that compiles."""

    def collect(self) -> Iterator[pytest.Item]:
        yield InterpretedRun.from_parent(self, name="interpreted")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if module_path.match("test_*_kernel.py") and not INTERPRETING:
        return InterpretedFile.from_parent(parent, path=module_path)
    return None

"""The audit of the pinned versions fails on what is found, and says so where nothing could be looked up."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parent.parent / ".ci" / "audit.py"
UNKNOWN: dict[str, Any] = {"name": "a", "skip_reason": "not found"}
SOUND: dict[str, Any] = {"name": "b", "version": "1", "vulns": []}
BAD: dict[str, Any] = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("found", "error", "status", "said"),
    [
        ([SOUND, UNKNOWN], "", 0, "0 findings in 1 packages; 1 not known there"),
        ([SOUND, BAD], "", 1, "c 2: CVE-1, fixed in 3"),
        ([UNKNOWN, UNKNOWN], "", 0, "NOT AUDITED, the service here knows none of the 2 packages"),
        (
            None,
            "ERROR: Connection to the service failed",
            0,
            "NOT AUDITED, the vulnerability service cannot be reached",
        ),
        (None, "ERROR: requirement file is broken", 1, "pip-audit failed: ERROR: requirement file is broken"),
    ],
)
def test_what_the_audit_says(tmp_path: Path, found: Any, error: str, status: int, said: str) -> None:
    answer = "" if found is None else json.dumps({"dependencies": found})
    program = f"import sys; sys.stdout.write({answer!r}); sys.stderr.write({error!r}); sys.exit(1)"
    (tmp_path / "pip_audit.py").write_text(program)  # stands for the tool, whose service is not everywhere
    ran = subprocess.run(
        [sys.executable, str(AUDIT)], env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert (ran.returncode, said in ran.stdout) == (status, True), ran.stdout

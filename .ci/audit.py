"""Looks up the versions of constraints.txt among known vulnerabilities. Fails on findings, not without network."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
# Accepted findings, as advisory ids, each with the reason beside it.
_ACCEPTED: dict[str, str] = {}
_UNREACHABLE = ("connection", "timed out", "timeout", "resolve", "unreachable", "proxy")


def main() -> int:
    """Audits; 1 if a version has a known vulnerability or the audit itself is at fault, 0 if not or not reachable."""
    options = ["--requirement", str(_ROOT / "constraints.txt"), "--no-deps", "--disable-pip"]
    command = [sys.executable, "-m", "pip_audit", *options, "--format", "json", "--timeout", "10"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if any(word in why.lower() for word in _UNREACHABLE):
            return _say(f"pip-audit: NOT AUDITED, the vulnerability service cannot be reached ({why})", 0)
        return _say(f"pip-audit failed: {why}", 1)
    audited = [entry for entry in found if "vulns" in entry]
    if not audited:
        return _say(f"pip-audit: NOT AUDITED, the service here knows none of the {len(found)} packages", 0)
    bad = [(entry, vuln) for entry in audited for vuln in entry["vulns"] if vuln["id"] not in _ACCEPTED]
    for entry, vuln in bad:
        _say(f"{entry['name']} {entry['version']}: {vuln['id']}, fixed in {', '.join(vuln['fix_versions']) or '?'}", 1)
    unknown = len(found) - len(audited)
    return _say(f"pip-audit: {len(bad)} findings in {len(audited)} packages; {unknown} not known there", int(bool(bad)))


def _say(line: str, status: int) -> int:
    sys.stdout.write(line + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())

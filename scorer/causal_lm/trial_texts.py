"""Real text that any machine with Python has, for the trial of 8-bit products: prose and code. Imports no torch."""

from __future__ import annotations

import sysconfig
from itertools import islice
from pathlib import Path

_DOCUMENTS = 256  # of a kind, at most
_LENGTHS = (700, 1500, 3000, 5000)  # characters, in turn
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "pydoc_data", "__pycache__"}


def trial_texts() -> dict[str, list[str]]:
    """Documents by kind: the language reference, and the sources of the standard library; the same for a Python."""
    return {"prose": _prose(), "code": _code()}


def _prose() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return []
    text = "\n\n".join(topics[name] for name in sorted(topics))
    found: list[str] = []
    while text and len(found) < _DOCUMENTS:
        size = _LENGTHS[len(found) % len(_LENGTHS)]
        found.append(text[:size])
        text = text[size:]
    return found


def _code() -> list[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for pattern in ("*.py", "*/*.py") for path in root.glob(pattern))
    kept = (path for path in files if path.parent.name not in _LEFT_OUT and path.stat().st_size > _LENGTHS[0])
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in islice(kept, _DOCUMENTS))
    return [text[: _LENGTHS[i % len(_LENGTHS)]] for i, text in enumerate(texts)]

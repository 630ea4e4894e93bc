"""Importing scorer changes nothing in the process; `tune_process` does."""

import subprocess
import sys

TORCH_FREE = [
    "scorer",
    "scorer.errors",
    "scorer.fingerprint",
    "scorer.process",
    "scorer.tokenizer.backends",
    "scorer.tokenizer.tokenizer",
    "scorer.causal_lm.budget",
    "scorer.causal_lm.checkpoint",
    "scorer.causal_lm.mamba2_config",
    "scorer.causal_lm.reference",
    "scorer.training.names",
]


def run(code: str) -> str:
    """The output of a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_torch_free_modules_import_no_torch_and_leave_the_environment_unchanged() -> None:
    code = f"""
import importlib, os, sys
before = dict(os.environ)
for name in {TORCH_FREE}:
    importlib.import_module(name)
print(dict(os.environ) == before, bool({{"torch", "transformers"}} & set(sys.modules)))
"""
    assert run(code) == "True False"


def test_tune_process_sets_openmp_unless_the_user_has() -> None:
    tune = "from scorer.process import tune_process; tune_process(); print(os.environ['GOMP_SPINCOUNT'])"
    assert run(f"import os; os.environ.pop('GOMP_SPINCOUNT', None); {tune}") == "30000"
    assert run(f"import os; os.environ['GOMP_SPINCOUNT'] = '7'; {tune}") == "7"

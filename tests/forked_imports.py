"""What the server of `forked.py` imports before it forks: all that workers and commands import, torch among it."""

import importlib

from scorer.process import tune_process

tune_process()  # before torch is loaded, as in a worker
for _module in (
    "fastokens",
    "s3fs",
    "scorer.causal_lm.mamba2",
    "scorer.causal_lm.reference",
    "scorer.engine.scoring",
    "scorer.training.train",
    "service.commands.cli",
    "service.commands.local",
    "service.run.app",
    "service.run.worker_process",
    "service.work.local",
    "tests.faults.api",
    "torch._dynamo",
    "transformers",
):
    importlib.import_module(_module)
importlib.import_module("transformers").AutoTokenizer  # noqa: B018  # imported at its first use

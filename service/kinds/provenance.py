"""The provenance of a job's results, the same from the service and from `winnow prune`: no time, host, path, job id."""

import platform
from functools import cache
from importlib.metadata import version
from typing import Any

import service
from service.kinds.job_files import JobFiles
from service.kinds.scores import ENGINE


def provenance(job: JobFiles) -> dict[str, Any]:
    """What made a planned job's results, as far as it is known."""
    request, corpus, model = job.record.request, job.corpus, job.model
    if corpus is None:
        return {}
    reference: dict[str, Any] = {"sha256": None, "tokenizer_sha256": None}
    if model is not None:
        reference = {"sha256": model.sha256, "tokenizer_sha256": model.tokenizer_sha256}
        if model.training is not None:
            reference["training"] = model.training.model_dump()
    if request.train is not None:
        reference["train"] = request.train.model_dump()
    counts = {"documents": corpus.documents, "shards": corpus.shards}
    return {
        "winnow": service.__version__,
        "corpus": request.corpus.model_dump(exclude={"paths"}) | counts,
        "reference": reference,
        "scoring": request.scoring.model_dump() | {"engine": ENGINE},
        "versions": _versions(),
    }


@cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "numpy": version("numpy"), "pyarrow": version("pyarrow")}

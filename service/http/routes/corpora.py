"""Corpora: a look at one before a job is submitted."""

import threading
import time

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException

from pruner.corpus import sandbox
from pruner.corpus.check import CorpusCheck
from pruner.spec import CorpusSpec
from service.http.dependencies import JobsOf, RulesOf, json_body
from service.http.problems import RETRY_AFTER, responses
from service.kinds.corpus import refuse_own_files

router = APIRouter(tags=["corpora"])
_CHECK_SECONDS = 60.0  # that a check may take
_CHECKING = threading.BoundedSemaphore(4)  # checks at the same time, each by a process with its own memory


@router.post("/v1/corpora/check", dependencies=[Depends(json_body)], responses=responses(400, 413, 415, 422))
def check_corpus(corpus: CorpusSpec, rules: RulesOf, jobs: JobsOf) -> CorpusCheck:
    """Looks at a corpus: its files, what is left out, fields, first documents, and why a job over it would fail.

    Of over 10,000 files (1,000 in an object store) only the first are looked into.
    """
    roots = rules.roots_for(corpus)
    deadline = time.monotonic() + _CHECK_SECONDS
    late = HTTPException(503, f"the check takes over {_CHECK_SECONDS:.0f} s: check a part of the corpus", RETRY_AFTER)

    def waiting() -> None:
        if time.monotonic() > deadline:
            raise late

    if not _CHECKING.acquire(timeout=_CHECK_SECONDS):
        raise late
    try:
        found = sandbox.check_corpus(corpus, roots, waiting)
    finally:
        _CHECKING.release()
    refuse_own_files(jobs.workspace, (file.path for file in found.files))
    return found

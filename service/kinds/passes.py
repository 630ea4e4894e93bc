"""The passes over the shards of a job: the nodes that read documents, in the order in which they are made.

Each pass also makes the parts of later ones that come of the same reading, and these then make only what is missing.
"""

from service.contract.scorers import ScorerKind
from service.kinds.job_files import JobFiles

DOCUMENTS = "documents"
SCORES = "scores"
PRIOR_COUNTS, PRIOR = "prior", "prior/documents"


def further(kind: ScorerKind, scorer: str) -> str:
    """The node of a further scorer."""
    return f"{SCORES if kind == 'reference' else kind}/{scorer}"


def of(job: JobFiles) -> list[str]:
    """The names of the nodes, in their order."""

    def by(kind: ScorerKind) -> list[str]:
        return [further(kind, name) for name, spec in job.scorers.items() if spec.kind == kind]

    has_reference = job.record.request.reference is not None
    scores, prior = ([SCORES], [PRIOR]) if has_reference else ([], [])
    return [*scores, *by("reference"), *prior, *by("classifier"), DOCUMENTS, *by("field")]


def before(job: JobFiles, node: str) -> tuple[str, ...]:
    """What a pass needs of the other passes: the one before it."""
    names = of(job)
    at = names.index(node)
    return tuple(names[max(0, at - 1) : at])

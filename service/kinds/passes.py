"""The passes over the shards of a job: the nodes that read documents, in the order in which they are made.

Each pass also makes the parts of later ones that come of the same reading, and these then make only what is missing.
"""

from service.kinds.job_files import JobFiles

DOCUMENTS = "documents"
SCORES = "scores"
PRIOR_COUNTS, PRIOR = "prior", "prior/documents"


def further(kind: str, scorer: str) -> str:
    """The node of a further scorer."""
    return f"{SCORES if kind == 'reference' else kind}/{scorer}"


def of(job: JobFiles) -> list[str]:
    """The names of the nodes, in their order."""
    by_kind = {
        kind: [further(kind, name) for name, spec in job.scorers.items() if spec.kind == kind] for kind in _KINDS
    }
    main = [] if job.record.request.reference is None else [SCORES]
    prior = [PRIOR] if main else []
    return [*main, *by_kind["reference"], *prior, *by_kind["classifier"], DOCUMENTS, *by_kind["field"]]


def before(job: JobFiles, node: str) -> tuple[str, ...]:
    """What a pass needs of the other passes: the one before it."""
    names = of(job)
    at = names.index(node)
    return tuple(names[max(0, at - 1) : at])


_KINDS = ("reference", "classifier", "field")

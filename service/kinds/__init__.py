"""The kinds of artefacts, one file each, and their registry.

A kind is a module with `nodes` and `run`, see node.py. To add one: write its file, and add a line here.
"""

from service.kinds import (
    ablation,
    classifier,
    comparison,
    corpus,
    documents,
    export,
    field,
    index,
    model,
    order,
    prior,
    report,
    scores,
    selection,
)
from service.kinds.node import Kind

KINDS: dict[str, Kind] = {
    "corpus": corpus,
    "model": model,
    "prior": prior,
    "scores": scores,
    "classifier": classifier,
    "documents": documents,
    "field": field,
    "index": index,
    "order": order,
    "selection": selection,
    "comparison": comparison,
    "report": report,
    "export": export,
    "ablation": ablation,
}

"""The kinds of artefacts, one file each, and their registry.

A kind is a module with `nodes` and `run`, see node.py. To add one: write its file, and add a line here.
"""

from service.kinds import ablation, corpus, documents, export, index, model, order, report, scores, selection
from service.kinds.node import Kind

KINDS: dict[str, Kind] = {
    "corpus": corpus,
    "model": model,
    "scores": scores,
    "documents": documents,
    "index": index,
    "order": order,
    "selection": selection,
    "report": report,
    "export": export,
    "ablation": ablation,
}

"""A scored job's results in one folder: the score table, selections with their manifests, the report.

Each function may be repeated: files are replaced whole, and the one that says that others are there comes last.
"""

from collections import Counter
from typing import Any

import pyarrow.parquet as pq

from pruner.corpus.plan import Plan
from pruner.errors import InputError
from pruner.report import scores_report, selection_report
from pruner.select.bands import select
from pruner.select.manifest import write_manifest
from pruner.select.rank_index import write_ranks
from pruner.spec import SelectionSpec
from pruner.tables.score_table import ROWS_A_GROUP, Split, read_eligible, write_scores
from pruner.tables.storage import Storage

SCORES, REJECTS, REPORT, DOWNLOADS = "scores.parquet", "rejects.parquet", "report.json", "downloads.json"


def write_results(
    storage: Storage, folder: str, plan: Plan, score_paths: list[str], split: Split | None
) -> dict[str, Any]:
    """Writes the tables of scores and rejects, the counts by rank, and downloads.json with the tables' sha256 and size.

    `score_paths` are the shards' score files in plan order; `split` says which documents trained. Returns the counts
    `documents`, `tokens`, `rejects`, `training`, `eligible`; with none eligible there are no ranks, and no selection
    can be made. Raises InputError, with nothing written, if there are no documents.
    """
    counts = write_scores(storage, folder, plan, score_paths, split)
    shard_rows = counts.pop("shard_rows")
    if counts["eligible"]:
        write_ranks(storage, folder, read_eligible(storage, f"{folder}/{SCORES}"), shard_rows)
    storage.write_json(f"{folder}/{DOWNLOADS}", counts.pop("files"))
    return counts


def check_eligible(storage: Storage, folder: str, counts: dict[str, Any]) -> None:
    """Raises InputError if the folder's scores leave no document to select from."""
    if counts["eligible"]:
        return
    if counts["rejects"] < counts["documents"]:
        raise InputError("every document with a score trains the reference: choose a smaller reference.train.fraction")
    reasons = _reject_reasons(storage, f"{folder}/{REJECTS}", whole=True).most_common(3)
    said = ", ".join(f"{times:,} times: {reason}" for reason, times in reasons)
    raise InputError(
        f"no document of {counts['documents']:,} has a score ({said}); check corpus.text_field and the files, "
        "and see the table of rejects"
    )


def write_selection(storage: Storage, folder: str, spec: SelectionSpec, provenance: dict[str, Any]) -> dict[str, Any]:
    """Makes a selection of the folder's scores: its manifest as Parquet and JSON lines, then its selection.json.

    Returns what selection.json says: the spec's fields, `documents`, `tokens`, `perplexity_min` and `_max` (None if
    nothing is kept), the ranks [`start`, `stop`) (None within domains), `domains`, and `files` with the sha256 and size
    of each manifest.
    """
    eligible = read_eligible(storage, f"{folder}/{SCORES}")
    selected = select(eligible.nll, eligible.n_tokens, spec, eligible.domains)
    made = selection_report(eligible, selected, spec)
    target = f"{folder}/selections/{spec.id}"
    about = provenance | {"selection": spec.model_dump()}
    made["files"] = write_manifest(storage, f"{folder}/{SCORES}", target, selected, about)
    storage.write_json(f"{target}/selection.json", made)
    return made


def write_report(
    storage: Storage, folder: str, counts: dict[str, Any], selections: list[dict[str, Any]], context: int | None = None
) -> None:
    """Writes report.json of the folder's scores and of these selections, as `write_selection` returned them.

    `context` is the reference's limit in tokens, if it has one.
    """
    eligible = read_eligible(storage, f"{folder}/{SCORES}")
    reasons = _reject_reasons(storage, f"{folder}/{REJECTS}", whole=False)
    report = scores_report(eligible, counts, dict(reasons.most_common()), context)
    shown = [{key: value for key, value in made.items() if key != "files"} for made in selections]
    storage.write_json(f"{folder}/{REPORT}", report | {"selections": shown})


def _reject_reasons(storage: Storage, path: str, whole: bool) -> Counter[str]:
    """How often each reason, whole or without its detail, stands in the table of rejects."""
    reasons: Counter[str] = Counter()
    with storage.open(path) as source:
        for batch in pq.ParquetFile(source).iter_batches(ROWS_A_GROUP, columns=["reason"]):
            found = batch["reason"].to_pylist()
            reasons.update(found if whole else (reason.partition(":")[0] for reason in found))
    return reasons

"""What an export holds: export.json at its root, and the dataset card beside it."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from pruner.corpus.names import CODECS
from pruner.export.formats import ExportedFile, ExportFormat
from pruner.select.domains import DomainRow

EXPORT_FILE, CARD_FILE = "export.json", "README.md"
_DOMAINS_MAX = 50  # rows of the card's table
_SHOWN_MAX = 10  # paths of the corpus in the card


class ExportRecord(BaseModel):
    """`export.json`. The same export has the same bytes: no time, host or place of the output."""

    key: str  # a digest of the corpus, the scores, the selection and the options
    selection: dict[str, Any]  # the fields of the selection and its `id`; `{"id": "all"}` for all documents
    format: ExportFormat
    scores: bool  # whether columns of scores were added
    documents: int
    tokens: int
    files: tuple[ExportedFile, ...]  # `path` is below the root of the export
    provenance: dict[str, Any]


class Origin(BaseModel):
    """What the card says of a job beside its export."""

    paths: list[str]  # of the corpus
    corpus_documents: int
    eligible: int  # documents that the selection chose from
    reference: str
    commands: list[str]  # that make the export again
    before: list[DomainRow]
    after: list[DomainRow]


def dataset_card(record: ExportRecord, origin: Origin) -> str:
    """The README.md of an export, with the YAML header that `datasets` reads."""
    shown = origin.paths[:_SHOWN_MAX]
    more = len(origin.paths) - len(shown)
    selection = ", ".join(
        f"{name} {value}" for name, value in record.selection.items() if name != "id" and value is not None
    )
    lines = [
        "---",
        "configs:",
        *_configs([file.path for file in record.files]),
        "---",
        "",
        f"# Selection {record.selection['id']}",
        "",
        f"{record.documents:,} documents of {origin.eligible:,} in {len(record.files):,} files; {record.tokens:,} "
        "tokens by the reference's tokenizer. Pruned by perplexity with Winnow "
        f"{record.provenance.get('winnow', '')}.",
        "",
        f"- Corpus: {', '.join(f'`{path}`' for path in shown)}{f' and {more:,} more paths' if more else ''}, "
        f"{origin.corpus_documents:,} documents",
        f"- Reference: {origin.reference}",
        f"- Selection: {selection or 'every scored document that did not train the reference'}",
        f"- Format: {record.format}{', with columns of scores' if record.scores else ''}",
        "- `export.json` has each file's rows and SHA-256, and the provenance",
        "",
        "## Make it again",
        "",
        "```sh",
        *origin.commands,
        "```",
        "",
    ]
    if len(origin.before) > 1:
        lines += ["## Domains", "", "| domain | documents before | after |", "| --- | ---: | ---: |"]
        kept = {(row.domain, row.others): row for row in origin.after}
        for row in origin.before[:_DOMAINS_MAX]:
            after = kept.get((row.domain, row.others))
            name = "others" if row.others is not None else row.domain if row.domain is not None else "(none)"
            share = 0.0 if after is None else after.documents_share
            lines.append(f"| {_cell(name)} | {row.documents_share:.1%} | {share:.1%} |")
        lines.append("")
    return "\n".join(lines)


def _configs(paths: list[str]) -> Iterator[str]:
    """YAML lines: a configuration of `datasets` for each kind of file, as it reads one format at a time.

    Files without a suffix are named one by one: a glob for them would take export.json too.
    """
    kinds: dict[str, list[str]] = {}
    for path in paths:
        kinds.setdefault(_suffix(path), []).append(path)
    for suffix, members in sorted(kinds.items()):
        yield f"- config_name: {_quoted(suffix.removeprefix('.') or 'other') if len(kinds) > 1 else 'default'}"
        yield from ("  data_files:", "  - split: train", "    path:")
        yield from (f"    - {_quoted(path)}" for path in ([f"**/*{suffix}"] if suffix else members))


def _suffix(path: str) -> str:
    """The suffix of a file's name with that of its codec, or `` of a name without."""
    name = path.rpartition("/")[2]
    stem, dot, last = name.rpartition(".")
    if not stem:
        return ""
    inner = stem.rpartition(".")
    codec = f".{last}".lower() in CODECS
    return f".{inner[2]}.{last}" if codec and inner[0] else f"{dot}{last}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

"""Looks at a corpus without a job: its files, fields and first documents, and why a job over it would fail."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, Field

from pruner.corpus.check_fields import FieldCheck
from pruner.corpus.inspect_file import Inspected, NoCorpusFile, inspect_file
from pruner.corpus.listing import FoundFile, LeftOut, Listing, list_files
from pruner.corpus.names import Format, format_of
from pruner.corpus.paths import LOCAL, UNRESTRICTED, Roots
from pruner.corpus.plan import FILES_AT_ONCE, no_documents, text_bytes
from pruner.corpus.shard import Shard
from pruner.corpus.shard_reader import read_shard
from pruner.errors import InputError
from pruner.spec import CorpusSpec

_FILES_MAX = 10_000  # files that are looked into; of further ones the name is trusted
_FILES_AWAY_MAX = 1_000  # the same, where some files are not on this machine
_DOCUMENTS, _CHARACTERS = 3, 500
_PROBLEMS_MAX = 20
_BYTES_PER_TOKEN = 4  # about, for most tokenizers and languages

_TEXT = ("text", "content", "raw_content", "body", "document", "article", "markdown")
_ID = ("id", "_id", "doc_id", "document_id", "docid", "uuid", "warc_record_id", "metadata.id", "meta.id", "url")
_DOMAIN = (
    *("domain", "source", "subset", "meta.pile_set_name", "meta.redpajama_set_name", "metadata.source", "meta.source"),
    *("url", "metadata.url", "meta.url", "dataset", "lang", "language"),
)


class CheckedFile(BaseModel):
    """A file of a corpus. `rows` is null where nothing tells it without reading the file."""

    path: str
    format: Format
    bytes: int
    rows: int | None


class FieldType(BaseModel):
    """A field that the files have, those of objects by their paths."""

    name: str
    type: str


class Suggested(BaseModel):
    """Fields that a job may name; null where none has a usual name."""

    text_field: str | None
    id_field: str | None
    domain_field: str | None


class Estimate(BaseModel):
    """About how much a job would have to do; null where unknown."""

    tokens: int | None
    seconds: float | None = None
    device: str | None = None


class CorpusCheck(BaseModel):
    """What a corpus holds. A job over it would fail if there are `problems`."""

    files: list[CheckedFile]
    left_out: list[LeftOut]
    fields: list[FieldType]
    suggested: Suggested
    documents: list[str] = Field(description="The beginnings of the first documents.")
    estimate: Estimate
    problems: list[str] = Field(description="Why a job over the corpus would fail.")


def check_corpus(
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    at_once: int = FILES_AT_ONCE,
    on_path: Callable[[str], None] = lambda _path: None,
    on_file: Callable[[str], None] = lambda _url: None,
) -> CorpusCheck:
    """Looks at a corpus; of many files only the first are looked into. See `make_plan` for the arguments.

    Raises InputError for paths that are wrong.
    """
    listing = list_files(spec, roots, on_path)
    problems = listing.problems.copy()
    looked = _inspect(listing, spec, roots, at_once, on_file, problems)
    inspected = [made for made in looked if made is not None]
    try:
        if inspected or not problems:
            fields = FieldCheck(spec)
            for made in inspected:
                fields.add(made)
            fields.check(listing.left_out)
    except InputError as error:
        problems.append(str(error))
    types: dict[str, str] = {}
    for made in inspected:
        types = made.fields | types
    suggested = _suggest(types)
    text = spec.text_field if any(spec.text_field in made.has for made in inspected) else suggested.text_field
    documents: list[str] = []
    if text is not None:
        documents = _documents(inspected, spec.model_copy(update={"text_field": text}), roots, on_file, problems)
    later = listing.files[len(looked) :]
    size = sum(text_bytes(made) for made in inspected)
    size += sum(found.size for found in later) * size // max(1, sum(made.file.size for made in inspected))
    files = [*map(_checked, inspected), *map(_unchecked, later)]
    if not problems and all(file.rows == 0 for file in files):
        problems.append(no_documents(files[0].path, len(files)))
    return CorpusCheck(
        files=files,
        left_out=list(listing.left_out),
        fields=[FieldType(name=name, type=kind) for name, kind in types.items()],
        suggested=suggested,
        documents=documents,
        estimate=Estimate(tokens=size // _BYTES_PER_TOKEN),
        problems=problems[:_PROBLEMS_MAX],
    )


def _inspect(
    listing: Listing,
    spec: CorpusSpec,
    roots: Roots,
    at_once: int,
    on_file: Callable[[str], None],
    problems: list[str],
) -> list[Inspected | None]:
    """The first files; None for those that are left out or cannot be read, which is added to `problems`."""

    def inspect(found: FoundFile) -> Inspected | NoCorpusFile | InputError:
        on_file(found.url)
        try:
            return inspect_file(found, spec, roots)
        except (NoCorpusFile, InputError) as error:
            return error

    looked: list[Inspected | None] = []
    is_local = all(found.path.scheme == LOCAL for found in listing.files)
    first = listing.files[: _FILES_MAX if is_local else _FILES_AWAY_MAX]
    with ThreadPoolExecutor(at_once) as pool:
        for found, made in zip(first, pool.map(inspect, first), strict=True):
            looked.append(made if isinstance(made, Inspected) else None)
            if isinstance(made, NoCorpusFile):
                listing.leave_out(str(made), found.url)
            elif isinstance(made, InputError):
                problems.append(str(made))
    return looked


def _checked(made: Inspected) -> CheckedFile:
    rows = None if made.units is None else sum(rows for rows, _ in made.units)
    file = made.file
    return CheckedFile(path=file.url, format=file.format, bytes=file.size, rows=0 if made.empty else rows)


def _unchecked(found: FoundFile) -> CheckedFile:
    kind = format_of(found.path.path) or "jsonl"
    return CheckedFile(path=found.url, format=kind, bytes=found.size, rows=None)


def _suggest(types: dict[str, str]) -> Suggested:
    def first(names: Sequence[str]) -> str | None:
        return next((name for name in names if name in types), None)

    return Suggested(text_field=first(_TEXT), id_field=first(_ID), domain_field=first(_DOMAIN))


def _documents(
    inspected: Sequence[Inspected], spec: CorpusSpec, roots: Roots, on_file: Callable[[str], None], problems: list[str]
) -> list[str]:
    """The beginnings of the first documents. An error of reading them is added to `problems`."""
    found: list[str] = []
    for made in inspected:
        stop = 1 if made.units is not None else 0  # the first row group or record batch, or the whole of a text file
        part = Shard(0, 0, 1, 0, stop, None, 0, "")
        try:
            for batch in read_shard([made.file], part, spec, roots, on_file=on_file):
                found += [text[:_CHARACTERS] for text in batch["text"].drop_null().to_pylist()]
                if len(found) >= _DOCUMENTS:
                    return found[:_DOCUMENTS]
                break
        except InputError as error:
            problems.append(str(error))
    return found

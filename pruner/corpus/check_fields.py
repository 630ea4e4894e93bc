"""Checks that the files of a corpus have its fields."""

from collections.abc import Sequence

from pruner.corpus.inspect_file import LOOK_ROWS, Inspected
from pruner.corpus.listing import LeftOut
from pruner.corpus.names import KNOWN
from pruner.errors import InputError
from pruner.spec import CorpusSpec

_NAMES_SHOWN = 20


def check_fields(inspected: Sequence[Inspected], spec: CorpusSpec, left_out: Sequence[LeftOut]) -> None:
    """Raises InputError for a field that no file has, and for a file without the text field that others have."""
    if not inspected:
        left = "; ".join(f"{found.files:,} {found.reason}, such as {found.example}" for found in left_out)
        raise InputError(f"there is no corpus file; a corpus has {KNOWN} files (left out: {left})")
    filled = [made for made in inspected if not made.empty]
    for name, field in (
        ("text_field", spec.text_field),
        ("id_field", spec.id_field),
        ("domain_field", spec.domain_field),
    ):
        if field is None or not filled:
            continue
        lacking = [made for made in filled if field not in made.has]
        if len(lacking) == len(filled):
            where = filled[0].file.url + (f" and {len(filled) - 1:,} other files" if len(filled) > 1 else "")
            text = any(made.units is None for made in filled)
            rows = f" in the first {LOOK_ROWS:,} rows" if text else ""
            raise InputError(f"{where}: no field {field!r} for corpus.{name}{rows}; there are {_names(filled)}")
        if lacking and name == "text_field":
            others = f" (and {len(lacking) - 1:,} more files)" if len(lacking) > 1 else ""
            raise InputError(
                f"{lacking[0].file.url}{others}: no field {field!r} for corpus.text_field, which other files have; it"
                f" has {_names(lacking[:1])}; exclude it, or name only the files to read"
            )


def _names(inspected: Sequence[Inspected]) -> str:
    names = list(dict.fromkeys(name for made in inspected for name in made.fields))
    return ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "") or "none"

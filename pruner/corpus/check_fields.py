"""Checks that the files of a corpus have its fields."""

from collections.abc import Sequence

from pruner.corpus.inspect_file import LOOK_ROWS, Inspected
from pruner.corpus.listing import LeftOut, summarised
from pruner.corpus.names import KNOWN
from pruner.errors import InputError
from pruner.spec import CorpusSpec

_NAMES_SHOWN = 20
_TEXT = "corpus.text_field"


class FieldCheck:
    """What must be known of the files of a corpus, which are added one by one, to check its fields."""

    def __init__(self, spec: CorpusSpec, numbers: Sequence[str] = ()) -> None:
        """`numbers` are fields that give scores."""
        named = (
            (_TEXT, spec.text_field),
            ("corpus.id_field", spec.id_field),
            ("corpus.domain_field", spec.domain_field),
        )
        self._fields = [(what, field) for what, field in named if field is not None]
        self._fields += [("a scorer", field) for field in dict.fromkeys(numbers)]
        self._files = self._filled = 0
        self._first = ""  # of the files with rows
        self._any_text = False
        self._names: dict[str, None] = {}
        self._lacking = dict.fromkeys(self._fields, 0)  # files with rows without the field
        self._first_lacking: Inspected | None = None  # of those without the text field

    def add(self, made: Inspected) -> None:
        """Adds a file."""
        self._files += 1
        if made.empty:
            return
        self._first = self._first or made.file.url
        self._filled += 1
        self._any_text |= made.units is None
        if len(self._names) <= _NAMES_SHOWN:
            self._names |= dict.fromkeys(made.fields)
        for what, field in self._fields:
            if field not in made.has:
                self._lacking[what, field] += 1
                if what == _TEXT and self._first_lacking is None:
                    self._first_lacking = made

    def check(self, left_out: Sequence[LeftOut]) -> None:
        """Raises InputError for a field that no file has, and for a file without the text field that others have."""
        if not self._files:
            raise InputError(f"there is no corpus file; a corpus has {KNOWN} files (left out: {summarised(left_out)})")
        for what, field in self._fields if self._filled else ():
            lacking, first = self._lacking[what, field], self._first_lacking
            if lacking == self._filled:
                where = self._first + (f" and {self._filled - 1:,} other files" if self._filled > 1 else "")
                rows = f" in the first {LOOK_ROWS:,} rows" if self._any_text else ""
                raise InputError(
                    f"{where}: no field {field!r} for {what}{rows}; there are {_listed(list(self._names))}"
                )
            if what == _TEXT and first is not None:
                others = f" (and {lacking - 1:,} more files)" if lacking > 1 else ""
                raise InputError(
                    f"{first.file.url}{others}: no field {field!r} for corpus.text_field, which other files have; it"
                    f" has {_listed(list(first.fields))}; exclude it, or name only the files to read"
                )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "") or "none"

"""The folder that an export is written to: whose it is, and how it is completed.

A marker at its root says which export has begun there, and names its files, so that it can go on, or be replaced by
another one. Complete, the folder holds the files, the dataset card and export.json, and no marker.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pruner.corpus.paths import is_below
from pruner.errors import InputError
from pruner.export.export_record import CARD_FILE, EXPORT_FILE, ExportRecord
from pruner.tables.records import Record, read_record
from pruner.tables.storage import Storage

MARKER_FILE = ".winnow-export.json"


class _Marker(Record):
    key: str  # of the export
    files: tuple[str, ...]


@dataclass(frozen=True)
class OutputFolder:
    """The folder of the export `key`, at the root of a storage or below it. Methods raise OSError."""

    storage: Storage
    key: str
    prefix: str = ""  # of paths, with a `/` at the end

    def path(self, name: str) -> str:
        """The path of a file of the export in the storage."""
        return self.prefix + name

    def inside(self, name: str) -> str:
        """The same for a file to be written or removed. Raises InputError if it is not inside, links resolved.

        The name may come from a service or a marker that others control, and others may be able to put links there.
        """
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise InputError(f"{self.storage.url}: the file name {name!r} leads out of the folder of the export")
        file, folder = self.storage.local(self.path(name)), self.storage.local(self.prefix)
        if file is None or folder is None or len(parts) == 1:
            return self.path(name)
        if not is_below(os.path.realpath(file.parent), os.path.realpath(folder)):
            raise InputError(f"{file}: a link in it leads out of the folder of the export; remove the link")
        return self.path(name)

    @property
    def is_complete(self) -> bool:
        """Whether this export has been completed here."""
        try:
            return bool(self.storage.read_json(self.path(EXPORT_FILE)).get("key") == self.key)
        except (FileNotFoundError, ValueError, AttributeError):
            return False

    @property
    def has_begun(self) -> bool:
        """Whether this export was begun here, or completed."""
        marker = self._marker()
        return self.is_complete if marker is None else marker.key == self.key

    def take(self, names: Sequence[str]) -> None:
        """Begins the export of the files `names`, and removes those of another one that is not complete.

        Raises InputError if the folder holds anything else, such as a complete export with other options, and for names
        that lead out of the folder.
        """
        marker, there = self._marker(), self.storage.list(self.prefix.rstrip("/"))
        if marker is not None:
            for path in [self.inside(name) for name in marker.files] if marker.key != self.key else ():
                self.storage.remove(path)
        elif there and not self.is_complete:
            what = "holds another export, which is complete" if EXPORT_FILE in there else f"is not empty: {there[0]}"
            raise InputError(f"{self.storage.url}: {what}; choose another folder, or empty this one")
        for name in names:
            self.inside(name)
        about = _Marker(key=self.key, files=tuple(names))
        self.storage.write_bytes(self.path(MARKER_FILE), about.model_dump_json().encode())
        for name in (EXPORT_FILE, CARD_FILE):
            self.storage.remove(self.path(name))

    def complete(self, record: ExportRecord, card: str) -> None:
        """Writes the dataset card and export.json, and removes the marker and what killed writers left."""
        self.storage.sweep(self.prefix)
        self.storage.write_bytes(self.path(CARD_FILE), card.encode(errors="replace"))
        self.storage.write_json(self.path(EXPORT_FILE), record.model_dump())
        self.storage.remove(self.path(MARKER_FILE))

    def sizes(self) -> dict[str, int]:
        """The size of each file of the folder in bytes, by its path in the storage."""
        return {file.path: file.size for file in self.storage.files(self.prefix.rstrip("/"))}

    def _marker(self) -> _Marker | None:
        try:
            return read_record(self.storage, self.path(MARKER_FILE), _Marker)
        except FileNotFoundError:
            return None

"""The records of a storage, with a cache of those that never change."""

import threading
from collections import OrderedDict
from datetime import datetime

from pruner.errors import InputError
from pruner.tables.records import Record, RecordType, read_record
from pruner.tables.storage import Storage

_RECALLED = 4_096  # immutable records that a process keeps in memory


class RecordStore:
    """Reads and writes the records of a storage. Methods raise OSError as it does, and InputError as `read_record`."""

    def __init__(self, storage: Storage, *, damaged_are_missing: bool = False) -> None:
        """With `damaged_are_missing` a damaged record is read as if it were not there."""
        self._storage, self._damaged_are_missing = storage, damaged_are_missing
        self._known: OrderedDict[tuple[str, datetime | None], Record] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, kind: type[RecordType], path: str) -> RecordType | None:
        """A record as it is now, or None if it is not there."""
        try:
            return read_record(self._storage, path, kind)
        except FileNotFoundError:
            return None
        except InputError:
            if not self._damaged_are_missing:
                raise
            return None

    def recall(self, kind: type[RecordType], path: str, since: datetime | None = None) -> RecordType | None:
        """A record that never changes, read once a process; or None if it is not there.

        `since` tells apart records that come one after the other under the same path, as those of a job do that is
        removed and submitted again: the time when it was submitted.
        """
        key = (path, since)
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return known  # type: ignore[return-value]
        record = self.read(kind, path)
        if record is not None:
            with self._lock:
                self._known[key] = record
                if len(self._known) > _RECALLED:
                    self._known.popitem(last=False)
        return record

    def write(self, path: str, record: Record) -> None:
        """Makes or replaces a record."""
        self._storage.write_bytes(path, _encoded(record))

    def write_new(self, path: str, record: Record) -> bool:
        """Makes a record; False if there was one, which stays."""
        return self._storage.create_new(path, _encoded(record))


def _encoded(record: Record) -> bytes:
    return record.model_dump_json(indent=1).encode() + b"\n"

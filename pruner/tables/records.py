"""Versioned JSON records: what is stored beside the tables, each with the version of its format."""

from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from pruner.errors import InputError
from pruner.tables.storage import Storage
from pruner.validation import explain


class Record(BaseModel):
    """A stored record. `format` is the version of its fields: readers refuse every other version."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1


RecordType = TypeVar("RecordType", bound=Record)


def parse_record(data: bytes, kind: type[RecordType], name: str) -> RecordType:
    """Parses a record from JSON. `name` is its file in error messages.

    Raises InputError if the record has another format version or is not such a record.
    """
    try:
        found: Any = orjson.loads(data)
        version = found.get("format") if isinstance(found, dict) else None
        if version != kind.model_fields["format"].default:
            raise InputError(
                f"{name}: has format {version}, but this version of Winnow reads format "
                f"{kind.model_fields['format'].default}; use the version that wrote the file, or make it again"
            )
        return kind.model_validate(found)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{name}: is damaged ({error}); make it again") from None
    except ValidationError as error:
        first = error.errors()[0]
        wrong = explain(first, ".".join(map(str, first["loc"])))
        raise InputError(f"{name}: is damaged ({wrong}); make it again") from None


def read_record(storage: Storage, path: str, kind: type[RecordType]) -> RecordType:
    """Reads a record from a JSON file. Raises FileNotFoundError, and InputError as `parse_record` does."""
    return parse_record(storage.read_bytes(path), kind, path)


def write_record(storage: Storage, path: str, record: Record) -> None:
    """Writes a record as a JSON file."""
    storage.write_json(path, record.model_dump())

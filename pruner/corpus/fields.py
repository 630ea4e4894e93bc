"""Fields of documents: where the text, the id and the domain of a row come from.

A field names a column; else a dotted path through objects (`meta.source`); else a key of the folder names
(`source=cc/`). `@folder` is the name of the folder that holds the file, and `@file` its path below the corpus root.
"""

import json
from typing import Any
from urllib.parse import unquote

import orjson

from pruner.corpus.files import CorpusFile
from pruner.corpus.labels import valid_unicode

EXACT = 2.0**53  # orjson reads integers over 64 bits as floats; no integer below this is changed by it
ABSENT: Any = object()  # the value of a field that a row or a file does not have
FOLDER, FILE = "@folder", "@file"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def is_url(field: str) -> bool:
    """Whether the field holds URLs, whose host is the domain."""
    return field.rpartition(".")[2] == "url"


def find_value(row: dict[str, Any], field: str) -> Any:
    """The value of a field of a row, or ABSENT. A text that holds a JSON object counts as this object."""
    if field in row:
        return row[field]
    dot = field.find(".")
    while dot > 0:
        inner, value = row.get(field[:dot]), ABSENT
        if isinstance(inner, str):
            value = value_in_json(inner, field[dot + 1 :])
        elif isinstance(inner, dict):
            value = find_value(inner, field[dot + 1 :])
        if value is not ABSENT:
            return value
        dot = field.find(".", dot + 1)
    return ABSENT


def value_in_json(text: str | bytes, field: str) -> Any:
    """The value of a field of the JSON object that a text holds, exact and valid Unicode; or ABSENT."""
    if text[:1] not in ("{", b"{"):
        return ABSENT
    try:
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError:
            row = json.loads(text)  # accepts what Python writes: NaN and lone surrogates
        value = find_value(row, field) if isinstance(row, dict) else ABSENT
        if isinstance(value, float) and abs(value) >= EXACT:
            value = find_value(json.loads(text), field)
    except (ValueError, RecursionError):
        return ABSENT
    return valid_unicode(value) if isinstance(value, str) else value


def path_value(file: CorpusFile, field: str) -> str | None:
    """The value that the file's path gives to all its rows, or ABSENT. None is a null of a folder name."""
    *folders, _ = file.path.path.split("/")
    if field == FILE:
        return file.relative
    if field == FOLDER:
        return folders[-1] if folders else ""
    for folder in reversed(folders):
        key, equals, value = folder.partition("=")
        if equals and unquote(key) == field:
            return None if value == _HIVE_NULL else unquote(value)
    return ABSENT  # type: ignore[no-any-return]


def is_path_field(field: str) -> bool:
    """Whether a field comes from the path alone, and never from a row."""
    return field in (FOLDER, FILE)

"""Labels: the id and the domain of a document, as strings of bounded length."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

import orjson

LABEL_CHARACTERS_MAX = 16_384  # of an id or a domain; a row with a longer one is a reject
# URLs whose host needs no further parsing: the same as urlsplit, but several times faster.
PLAIN_HOST = r"^https?://(?P<host>[A-Za-z0-9.-]+)(?:[/?#]|$)"
_NO_HOST = re.compile(r"[\s\\<>\"{}|^`]")  # in no host
_PLAIN_HOST = re.compile(PLAIN_HOST.replace("$", r"\Z"))


def label(value: Any) -> str | None:
    """An id or a domain as a string; null stays null. Raises ValueError if it is too long or nested too deep."""
    if value is None:
        return None
    if not isinstance(value, str):
        if isinstance(value, bytes):
            value = bytes_text(value)
        elif isinstance(value, (dict, list)):
            value = json_text(value)
        else:
            value = str(value)
    if len(value) > LABEL_CHARACTERS_MAX:
        raise ValueError(f"longer than {LABEL_CHARACTERS_MAX:,} characters")
    return value  # type: ignore[no-any-return]


def bytes_text(value: bytes) -> str:
    """The text that the bytes are in UTF-8, else `0x` and their hex digits."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"


def host(value: Any) -> str | None:
    """The host of a URL, or None if there is none."""
    if isinstance(value, str) and len(value) <= LABEL_CHARACTERS_MAX and (plain := _PLAIN_HOST.match(value)):
        return plain["host"].lower()
    try:
        text = (label(value) or "").strip()
        plain = _PLAIN_HOST.match(text)
        if plain:
            return plain["host"].lower()
        found = urlsplit(text).hostname
        return found if found and not _NO_HOST.search(found) else None
    except ValueError:
        return None


def valid_unicode(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced by `?`."""
    return text.encode(errors="replace").decode()


def json_text(value: Any) -> str:
    """A parsed JSON value as compact JSON. Raises ValueError if it is nested too deep."""
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        if "Recursion" in str(error):
            raise ValueError("nested too deep") from None
        # orjson refuses integers over 64 bits and lone surrogates.
        return valid_unicode(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str))

"""Validation errors of pydantic in plain English, the same for records, the API and the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

KEY = "[key]"  # pydantic's word for a key of an object, after the key itself

# By pydantic's error type. Each is completed from the error's `ctx`; all other types keep their own message.
_MESSAGES = {
    "missing": "must be given",
    "extra_forbidden": "is not a known field",
    "literal_error": "must be {expected}",
    "greater_than": "must be over {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be under {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_unicode": "must be text, without half of a surrogate pair",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


_PATTERNS = {
    r"^[A-Za-z][A-Za-z0-9_-]*$": "must start with a letter, and have only letters, digits, '_' and '-'",
    r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$": "must have only letters, digits, '.', '_' and '-', and not start with '.'",
}


def relevant(errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The errors of a ValidationError without the follow-ups: wrong items also make a list too short for pydantic."""
    return [
        error for error in errors if error["type"] != "too_short" or len(error["input"]) < error["ctx"]["min_length"]
    ]


def explain(error: Mapping[str, Any], name: str) -> str:
    """One of the errors of a ValidationError as a sentence about the field `name`, such as `rate must be at most 1`."""
    if error["type"] == "missing" and error["loc"] and isinstance(error["loc"][-1], int):
        least = error["loc"][-1] + 1
        return f"{name} must have at least {least} item{'s' if least > 1 else ''}"
    message = _PATTERNS.get(error.get("ctx", {}).get("pattern", "")) or _MESSAGES.get(error["type"])
    if message is not None:
        limits = {
            key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in error.get("ctx", {}).items()
        }
        return f"{name} {message.format(**limits)}".strip()
    said = str(error["msg"]).removeprefix("Value error, ")
    return f"{name}{' ' if said.startswith('must ') else ': '}{said}" if name else said

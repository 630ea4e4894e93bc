"""Parts of an OpenAPI schema in words, for the API's documentation page.

FastAPI's own page loads its scripts from another host.
"""

from typing import Any

Schema = dict[str, Any]
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "over",
    "maximum": "at most",
    "exclusiveMaximum": "under",
    "minLength": "characters from",
    "maxLength": "characters up to",
}


def content(message: Schema) -> str:
    """The media types of a request or an answer, with the types of their content."""
    texts = []
    for media_type, about in message.get("content", {}).items():
        content_type = type_name(about.get("schema", {}))
        texts.append(media_type if content_type == "any" else f"{media_type}: {content_type}")
    return "; ".join(texts)


def description(item: Schema) -> str:
    """The description of a parameter or member, and its default."""
    schema = item.get("schema", item)
    text = item.get("description") or schema.get("description") or ""
    return f"{text} Default: {schema['default']}.".strip() if schema.get("default") is not None else text


def type_name(schema: Schema) -> str:
    """A type in words, such as `number over 0, at most 1`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(type_name(each) for each in schema[union]))
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {type_name(schema.get('items', {}))}"
    limits = ", ".join(f"{words} {schema[key]}" for key, words in _LIMITS.items() if key in schema)
    return f"{schema.get('format') or schema.get('type') or 'any'} {limits}".strip()

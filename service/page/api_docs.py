"""The API's documentation page, from its OpenAPI schema. FastAPI's own page loads its scripts from another host."""

from collections.abc import Iterator
from typing import Any, NamedTuple

Schema = dict[str, Any]
_METHODS = ("get", "post", "put", "delete", "head")
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "over",
    "maximum": "at most",
    "exclusiveMaximum": "under",
    "minLength": "characters from",
    "maxLength": "characters up to",
}


class Field(NamedTuple):
    """A parameter, a header or a member of an object, with its type in words."""

    name: str
    location: str  # of a parameter: path, query or header
    type: str
    required: bool
    description: str


class Operation(NamedTuple):
    """A call of the API. `body` is the type of the request body or "", `answers` maps a status to its content."""

    method: str
    path: str
    title: str
    description: str
    fields: list[Field]
    body: str
    answers: dict[str, str]


def operations(openapi: Schema) -> list[Operation]:
    """All operations, in the order of the schema."""
    return [
        _operation(method, path, item[method])
        for path, item in openapi["paths"].items()
        for method in _METHODS
        if method in item
    ]


def objects(openapi: Schema) -> dict[str, list[Field]]:
    """The members of each object of the schema, by the object's name."""
    schemas: dict[str, Schema] = openapi.get("components", {}).get("schemas", {})
    return {name: list(_members(schema)) for name, schema in sorted(schemas.items())}


def _operation(method: str, path: str, operation: Schema) -> Operation:
    return Operation(
        method.upper(),
        path,
        operation.get("summary", ""),
        operation.get("description", ""),
        [
            Field(each["name"], each["in"], _type(each["schema"]), each.get("required", False), _description(each))
            for each in operation.get("parameters", [])
        ],
        _content(operation.get("requestBody", {})),
        {status: _content(each) or each.get("description", "") for status, each in operation["responses"].items()},
    )


def _content(message: Schema) -> str:
    """The media types of a request or an answer, with the types of their content."""
    texts = []
    for media_type, content in message.get("content", {}).items():
        content_type = _type(content.get("schema", {}))
        texts.append(media_type if content_type == "any" else f"{media_type}: {content_type}")
    return "; ".join(texts)


def _members(schema: Schema) -> Iterator[Field]:
    if "enum" in schema:
        yield Field("", "", _type(schema), True, _description(schema))
    for name, member in schema.get("properties", {}).items():
        yield Field(name, "", _type(member), name in schema.get("required", ()), _description(member))


def _description(item: Schema) -> str:
    """The description of a parameter or member, and its default."""
    schema = item.get("schema", item)
    text = item.get("description") or schema.get("description") or ""
    return f"{text} Default: {schema['default']}.".strip() if schema.get("default") is not None else text


def _type(schema: Schema) -> str:
    """A type in words, such as `number over 0, at most 1`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(_type(each) for each in schema[union]))
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = ", ".join(f"{words} {schema[key]}" for key, words in _LIMITS.items() if key in schema)
    return f"{schema.get('format') or schema.get('type') or 'any'} {limits}".strip()

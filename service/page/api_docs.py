"""The API's manual, made of its OpenAPI schema: what there is to call, what it takes, what it answers."""

from collections.abc import Iterator
from typing import Any, NamedTuple

Schema = dict[str, Any]
_METHODS = ("get", "post", "put", "delete", "head")


class Field(NamedTuple):
    """A parameter, a header or a member of an object. `kind` says its type in words."""

    name: str
    place: str
    kind: str
    required: bool
    about: str


class Call(NamedTuple):
    """An operation. `body` is the type of what is sent, if anything; `answers` maps a status to what comes with it."""

    method: str
    path: str
    title: str
    about: str
    fields: list[Field]
    body: str
    answers: dict[str, str]


def calls(openapi: Schema) -> list[Call]:
    """All operations, in the order of the schema."""
    return [
        _call(method, path, item[method])
        for path, item in openapi["paths"].items()
        for method in _METHODS
        if method in item
    ]


def objects(openapi: Schema) -> dict[str, list[Field]]:
    """The members of each object that is sent or answered, by its name."""
    schemas: dict[str, Schema] = openapi.get("components", {}).get("schemas", {})
    return {name: list(_members(schema)) for name, schema in sorted(schemas.items())}


def _call(method: str, path: str, operation: Schema) -> Call:
    fields = [
        Field(each["name"], each["in"], kind(each.get("schema", {})), each.get("required", False), _about(each))
        for each in operation.get("parameters", [])
    ]
    return Call(
        method.upper(),
        path,
        operation.get("summary", ""),
        operation.get("description", ""),
        fields,
        _content(operation.get("requestBody", {})),
        {
            status: _content(answer) or answer.get("description", "")
            for status, answer in operation["responses"].items()
        },
    )


def _content(message: Schema) -> str:
    said = (
        media + (f": {told}" if (told := kind(each.get("schema", {}))) != "any" else "")
        for media, each in message.get("content", {}).items()
    )
    return "; ".join(said)


def _members(schema: Schema) -> Iterator[Field]:
    if "enum" in schema:
        yield Field("", "", kind(schema), True, _about(schema))
    for name, member in schema.get("properties", {}).items():
        yield Field(name, "", kind(member), name in schema.get("required", ()), _about(member))


def _about(described: Schema) -> str:
    said = [described.get("description") or described.get("schema", {}).get("description") or ""]
    default = described.get("schema", described).get("default")
    return " ".join([*filter(None, said), *([f"Default: {default}."] if default is not None else [])])


def kind(schema: Schema) -> str:
    """A type in words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(kind(each) for each in schema[union]))
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    limits = [f"{sign} {schema[key]}" for key, sign in _LIMITS.items() if key in schema]
    return " ".join([str(schema.get("format") or schema.get("type") or "any"), ", ".join(limits)]).strip()


_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "over",
    "maximum": "at most",
    "exclusiveMaximum": "under",
    "minLength": "characters from",
    "maxLength": "characters up to",
}

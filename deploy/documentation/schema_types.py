"""Types and bounds of fields in words, from annotations and from JSON Schemas."""

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

_NAMES: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Path: "path",
    SecretStr: "secret",
    type(None): "",
}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_SCHEMA_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_SCHEMA_NAMES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}


def name_of_type(annotation: Any) -> str:
    """Return the type of a setting in words; what is no simple value is given as JSON."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return name_of_type(get_args(annotation)[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(name for name in map(name_of_type, get_args(annotation)) if name)
    if origin in (tuple, list):
        return "JSON list"
    return "JSON object" if origin is dict else _NAMES.get(annotation, "text")


def bounds_of(field: FieldInfo) -> str:
    """Return the bounds of a setting: `≥ 1, ≤ 64`; empty if it has none."""
    metadata = [*field.metadata, *getattr(field.annotation, "__metadata__", ())]
    return ", ".join(
        f"{sign} {_number(value)}"
        for entry in metadata
        for name, sign in _SIGNS.items()
        if (value := getattr(entry, name, None)) is not None
    )


def type_of_schema(schema: dict[str, Any]) -> str:
    """Return the type of a property of a JSON Schema in words; another object of the schema becomes a link to it.

    What may be null says so last: "number, or `null`".
    """
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            names = [type_of_schema(option) for option in schema[key] if not _is_null(option)]
            null = ", or `null`" if any(map(_is_null, schema[key])) else ""
            return " or ".join(dict.fromkeys(names)) + null
    return _named(schema)


def _is_null(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "null"


def _named(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_inside(schema['items'])}" if schema.get("items") else "list"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object with values: {_inside(values)}" if isinstance(values, dict) and values else "object"
    if schema.get("format") == "date-time":
        return "time (RFC 3339)"
    bounds = [f"{sign} {_number(schema[key])}" for key, sign in _SCHEMA_SIGNS.items() if key in schema]
    return ", ".join([_SCHEMA_NAMES.get(kind, str(kind)), *bounds])


def _inside(schema: dict[str, Any]) -> str:
    """Return the type of the values of a list or an object, in brackets where they may be null, not the list."""
    name = type_of_schema(schema)
    return f"({name})" if any(map(_is_null, schema.get("anyOf", []))) else name


def _number(value: float) -> str:
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:g}"

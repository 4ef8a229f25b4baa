"""Types and bounds of fields in words, from JSON Schemas."""

from typing import Any

_SCHEMA_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_FORMATS = {"date-time": "time (RFC 3339)", "path": "path", "password": "secret"}
_SCHEMA_NAMES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}


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
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    bounds = [f"{sign} {_number(schema[key])}" for key, sign in _SCHEMA_SIGNS.items() if key in schema]
    return ", ".join([_SCHEMA_NAMES.get(kind, str(kind)), *bounds])


def _inside(schema: dict[str, Any]) -> str:
    """Return the type of a list's or object's values, in parentheses if the values may be null."""
    name = type_of_schema(schema)
    return f"({name})" if any(map(_is_null, schema.get("anyOf", []))) else name


def _number(value: float) -> str:
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:g}"

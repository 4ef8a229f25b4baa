"""Validation errors of pydantic, in plain words."""

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "missing": "the field is required, and missing",
    "extra_forbidden": "the field is unknown",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "needs {min_length} or more entries",
    "too_long": "takes {max_length} entries at most",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "model_type"), "must be a mapping of fields"),
    "string_type": "must be a text",
}


def describe_refusal(problem: Mapping[str, Any]) -> str:
    """Return a description of an entry of pydantic's `ValidationError.errors()`."""
    words = _WORDS.get(problem["type"])
    if words is None:
        return str(problem["msg"]).removeprefix("Value error, ")
    return words.format_map(problem.get("ctx", {}))

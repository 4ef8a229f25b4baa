"""Types of fields in words: what may be null says so."""

import pytest

from deploy.documentation.schema_types import type_of_schema

NULL = {"type": "null"}
TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (TEXT, "text"),
        ({"anyOf": [TEXT, NULL]}, "text, or `null`"),
        ({"anyOf": [NULL, COUNT]}, "whole number, ≥ 0, or `null`"),
        ({"oneOf": [TEXT, {"$ref": "#/$defs/Side"}, NULL]}, "text or [Side](#side), or `null`"),
        ({"anyOf": [{"enum": ["cut", "empty"]}, NULL]}, "`cut` or `empty`, or `null`"),
        ({"anyOf": [{"type": "array", "items": TEXT}, NULL]}, "list of text, or `null`"),
        ({"type": "array", "items": {"anyOf": [{"type": "number"}, NULL]}}, "list of (number, or `null`)"),
        ({"type": "object", "additionalProperties": {"anyOf": [TEXT, NULL]}}, "object with values: (text, or `null`)"),
        ({"type": "object", "additionalProperties": TEXT}, "object with values: text"),
        ({"type": "array"}, "list"),
    ],
)
def test_what_may_be_null_says_so(schema, words):
    assert type_of_schema(schema) == words

"""Types of fields in words: what may be null says so, also in the OpenAPI document of the console."""

import inspect

import pytest
from pydantic import BaseModel

from deploy.documentation.schema_types import type_of_schema
from services.console.app import build
from services.console.domain.screens import Points, RollbackSummary
from services.console.settings import ConsoleSettings
from services.console.web.api import Identified

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


def may_be_null(schema) -> bool:
    options = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    values = [schema[name] for name in ("items", "additionalProperties") if isinstance(schema.get(name), dict)]
    return NULL in options or any(map(may_be_null, [*options, *values]))


def document():
    """Return the OpenAPI document, which names the routes; the application needs none of its parts for it."""
    parts = dict.fromkeys(set(inspect.signature(build).parameters) - {"settings"}, object())
    return build(**parts, settings=ConsoleSettings.model_construct()).openapi()


@pytest.mark.parametrize(
    ("model", "nullable"),
    [
        (Identified, {"team", "models"}),
        (Points, {"values", "latest"}),
        (RollbackSummary, {"target", "verdict", "code", "reason", "switch_ms"}),
    ],
)
def test_the_openapi_document_lets_a_field_be_null_where_the_answer_does(model: type[BaseModel], nullable):
    described = document()["components"]["schemas"]
    properties = described[model.__name__]["properties"]
    assert {name for name in model.model_fields if may_be_null(properties[name])} == nullable

"""Types of fields in words: what may be null says so, in the OpenAPI document of the console and on the pages made from it."""

import re

import pytest
from pydantic import BaseModel

from deploy.documentation import console_page, events_page
from deploy.documentation.schema_types import type_of_schema, without_null
from services.console.domain.screens import Points, RollbackSummary
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


@pytest.mark.parametrize("schema", [TEXT, {"anyOf": [TEXT, NULL]}, {"anyOf": [NULL, TEXT]}])
def test_a_parameter_is_left_out_and_not_null(schema):
    assert type_of_schema(without_null(schema)) == "text"


def may_be_null(schema) -> bool:
    options = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    values = [schema[name] for name in ("items", "additionalProperties") if isinstance(schema.get(name), dict)]
    return NULL in options or any(map(may_be_null, [*options, *values]))


def rows_of(page: str, name: str) -> dict[str, str]:
    """Return the types of an object's fields on a page."""
    section = page.partition(f"### {name}\n")[2].partition("\n##")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \| ", section, re.MULTILINE))


def test_the_page_of_the_console_marks_each_field_that_may_be_null_and_no_other():
    page, schemas = console_page.render(), console_page.document()["components"]["schemas"]
    assert len(schemas) > 60
    marked = 0
    for name, schema in schemas.items():
        properties = schema.get("properties", {})
        rows = rows_of(page, name)
        assert set(rows) == set(properties), name
        assert {field: "`null`" in words for field, words in rows.items()} == {
            field: may_be_null(described) for field, described in properties.items()
        }, name
        marked += sum(map(may_be_null, properties.values()))
    assert marked > 100


@pytest.mark.parametrize(
    ("model", "nullable"),
    [
        (Identified, {"team", "models"}),
        (Points, {"values", "latest"}),
        (RollbackSummary, {"target", "verdict", "code", "reason", "switch_ms"}),
    ],
)
def test_the_openapi_document_lets_a_field_be_null_where_the_answer_does(model: type[BaseModel], nullable):
    described = console_page.document()["components"]["schemas"]
    properties = described[model.__name__]["properties"]
    assert {name for name in model.model_fields if may_be_null(properties[name])} == nullable


def test_the_page_of_events_marks_them_too():
    assert "| `causationid` | text, or `null` |" in events_page.render()

"""Which schemas of a request are compiled before the engine sees it."""

import json
import sys
from pathlib import Path

import pytest

BACKEND = Path(__file__).resolve().parents[3] / "deploy" / "backends" / "slipway"
SCHEMA = {"type": "object"}
TOOL = {"type": "function", "function": {"name": "a", "parameters": SCHEMA}}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}


@pytest.fixture
def schema_check(monkeypatch):
    monkeypatch.syspath_prepend(str(BACKEND))
    import schema_check

    yield schema_check
    sys.modules.pop("schema_check", None)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, []),
        ({"response_format": FORM}, ["response_format"]),
        ({"response_format": {"type": "json_object"}}, []),
        ({"response_format": {"type": "json_schema"}}, []),
        ({"response_format": "text"}, []),
        ({"text": {"format": {"type": "json_schema", "schema": SCHEMA}}}, ["text"]),
        ({"text": "a"}, []),
        ({"structured_outputs": {"json": SCHEMA}}, ["structured_outputs"]),
        ({"structured_outputs": {"choice": ["a"]}}, []),
        ({"tools": [TOOL, TOOL]}, ["tools", "tools"]),
        ({"tools": [{"type": "function", "name": "a", "parameters": SCHEMA}]}, ["tools"]),
        ({"tools": [TOOL], "tool_choice": "none"}, []),
        ({"tools": [{"type": "function"}, 1, {"function": "a"}]}, []),
        ({"tools": [TOOL], "response_format": FORM}, ["response_format", "tools"]),
    ],
)
def test_the_schemas_of_a_body_are_found_with_their_field(schema_check, body, fields):
    schemas = list(schema_check.find_schemas(body))
    assert [schema.field for schema in schemas] == fields
    assert all((schema.kind, json.loads(schema.spec)) == ("json", SCHEMA) for schema in schemas)

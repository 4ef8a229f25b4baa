"""Which schemas of a request are compiled before the engine sees it."""

import asyncio
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


def test_a_grammar_is_not_read_as_a_json_schema(schema_check):
    assert not schema_check.is_unsupported(schema_check.Schema("structured_outputs", "grammar", 'root ::= "a"'))


@pytest.fixture
def slow(schema_check):
    """Compile nothing until the gate opens; count what is compiled."""

    class Slow(schema_check.SchemaCheck):
        def __init__(self):
            super().__init__("")
            self.gate, self.compiled = asyncio.Event(), 0

        async def _ask(self, schema):  # noqa: ARG002 - as in the class
            await self.gate.wait()
            self.compiled += 1
            return schema_check.Outcome("ok")

    return Slow()


def schemas(schema_check, count):
    return [schema_check.Schema("tools", "json", json.dumps({"number": number})) for number in range(count)]


async def test_more_schemas_than_may_wait_are_refused_and_the_others_compiled(schema_check, slow):
    most = schema_check.MAX_WAITING
    asked = [asyncio.ensure_future(slow.compile(schema)) for schema in schemas(schema_check, most + 5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    slow.gate.set()
    outcomes = [outcome.outcome for outcome in await asyncio.gather(*asked)]
    assert (outcomes.count("ok"), outcomes.count("busy"), slow.compiled) == (most, 5, most)
    assert (await slow.compile(schema_check.Schema("tools", "json", "{}"))).outcome == "ok"


async def test_a_schema_whose_caller_left_is_not_compiled(schema_check, slow):
    asked = [asyncio.ensure_future(slow.compile(schema)) for schema in schemas(schema_check, 10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in asked[1:]:
        task.cancel()
    await asyncio.gather(*asked[1:], return_exceptions=True)
    slow.gate.set()
    assert (await asked[0]).outcome == "ok"
    assert (await slow.compile(schemas(schema_check, 10)[9])).outcome == "ok"
    assert slow.compiled == 2

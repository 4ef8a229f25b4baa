"""Which schemas of a request are compiled before the engine sees it."""

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

BACKEND = Path(__file__).resolve().parents[3] / "deploy" / "backends" / "slipway"
SCHEMA = {"type": "object"}
TOOL = {"type": "function", "function": {"name": "a", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {"name": "b", "parameters": SCHEMA, "strict": True}}
FLAT = {"type": "function", "name": "a", "parameters": SCHEMA}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}


@pytest.fixture
def schema_check(monkeypatch):
    monkeypatch.syspath_prepend(str(BACKEND))
    import schema_check

    yield schema_check
    for name in ("schema_check", "openai_record", "error_source"):
        sys.modules.pop(name, None)


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
        ({"tools": [TOOL, FLAT]}, []),
        ({"tools": [TOOL, FLAT], "tool_choice": "required"}, []),
        ({"tools": [TOOL, STRICT]}, ["tools"]),
        ({"tools": [TOOL, STRICT], "tool_choice": "auto"}, ["tools"]),
        ({"tools": [TOOL, STRICT], "tool_choice": "required"}, ["tools"]),
        ({"tools": [{**FLAT, "strict": True}], "tool_choice": None}, ["tools"]),
        ({"tools": [{**FLAT, "strict": False}]}, []),
        ({"tools": [STRICT], "tool_choice": {"type": "function", "function": {"name": "b"}}}, ["tools"]),
        ({"tools": [STRICT], "tool_choice": {"type": "function", "function": {"name": "a"}}}, []),
        ({"tools": [{**FLAT, "strict": True}], "tool_choice": {"type": "function", "name": "a"}}, ["tools"]),
        ({"tools": [STRICT], "tool_choice": {"type": "of a newer engine"}}, ["tools"]),
        ({"tools": [STRICT], "tool_choice": "none"}, []),
        ({"tools": [{"type": "function"}, 1, {"function": "a"}], "tool_choice": "required"}, []),
        ({"tools": [STRICT], "response_format": FORM}, ["response_format", "tools"]),
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

    class Slow(schema_check.SchemaCheck):  # type: ignore[name-defined]
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


@pytest.fixture
def refusing(schema_check, monkeypatch):
    """Return a function that asks for a constraint whose compilation has an outcome; with stand-ins of vLLM's errors.

    vLLM itself is in the engine's environment only: `tests/real/one_engine/test_openai_api.py` has its answers.
    """

    class VLLMClientError(Exception):
        pass

    class VLLMValidationError(VLLMClientError):
        pass

    class GracefulHTTPError(Exception):
        def __init__(self, message, http_status):
            super().__init__(message)
            self.http_status = http_status

    vllm: Any = ModuleType("vllm.exceptions")
    vllm.VLLMValidationError, vllm.GracefulHTTPError = VLLMValidationError, GracefulHTTPError
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.exceptions", vllm)
    utils: Any = ModuleType("vllm.v1.structured_output.utils")
    utils.choice_as_grammar = utils.grammar_is_likely_lark = None
    for name in ("vllm.v1", "vllm.v1.structured_output"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, utils.__name__, utils)

    async def refuse(outcome):
        check = schema_check.SchemaCheck("")
        check._outcomes[hashlib.sha256(b"json\0{}").hexdigest()] = schema_check.Outcome(outcome, "a reason")
        with pytest.raises(Exception, match=r"\w") as raised:
            await schema_check.require_compiled(check, SimpleNamespace(json="{}"))
        return raised.value

    return refuse


@pytest.mark.parametrize(
    ("outcome", "noted"),
    [("costly", "schema_too_costly"), ("busy", "schemas_busy"), ("invalid", "VLLMValidationError")],
)
async def test_a_constraint_that_depends_on_time_is_noted_by_its_code(refusing, outcome, noted):
    import openai_record

    error = await refusing(outcome)
    recorder = openai_record.Recorder(lambda: 0.0, lambda: None)
    recorder.note_error(error)
    assert recorder.error == {"class": noted, "source": "validation"}
    assert getattr(error, "http_status", 400) == (429 if outcome == "busy" else 400)

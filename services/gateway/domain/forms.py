"""The form that a request asks its answer to have, a JSON Schema or tools, and whether an answer has it.

Judged is what the caller got. A schema that cannot be checked within limits asks for JSON only.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from decisions.scorers.answers import Answer
from decisions.scorers.json_answers import NotJsonError, check_schema, find_violation, parse_json
from decisions.scorers.tool_calls import parse_calls

_ANY_OBJECT: Final = '{"type": "object"}'


@dataclass(frozen=True)
class Form:
    """What a request asks.

    Attributes:
        schema: The JSON Schema of the text, as JSON; empty without one.
        tools: The JSON Schema of the arguments of each tool, as JSON, by the name of the tool.
    """

    schema: str
    tools: Mapping[str, str]

    def is_met(self, answer: Answer) -> bool | None:
        """Return whether an answer is as it was asked: calls of known tools, or a text; None if nothing was asked."""
        if not self.schema and not self.tools:
            return None
        try:
            values = parse_calls(answer) if self.tools else []
            if values or not self.schema:
                called = zip(answer.calls, values, strict=True)
                return all(call.name in self.tools and _fits(value, self.tools[call.name]) for call, value in called)
            return _fits(parse_json(answer.text), self.schema)
        except NotJsonError:
            return False


@lru_cache(maxsize=64)
def read_form(given: str) -> Form:
    """Return what a request asks, from its `excerpts.FIELDS` as JSON."""
    fields = json.loads(given)
    tools = [tool.get("function", tool) for tool in fields.get("tools") or ()]
    return Form(
        next((schema for schema in _schemas(fields)), ""),
        {tool["name"]: json.dumps(tool.get("parameters") or {}) for tool in tools if "name" in tool},
    )


def _schemas(fields: Mapping[str, Any]) -> Iterator[str]:
    structure = fields.get("structured_outputs") or {}
    if structure.get("json") is not None:
        yield json.dumps(structure["json"])
    for asked in (fields.get("response_format") or {}, (fields.get("text") or {}).get("format") or {}):
        if asked.get("type") == "json_schema":
            schema = asked.get("json_schema", asked).get("schema")
            yield _ANY_OBJECT if schema is None else json.dumps(schema)
        elif asked.get("type") == "json_object":
            yield _ANY_OBJECT


def _fits(value: Any, schema: str) -> bool:
    """Return whether a value is valid by a JSON Schema, as far as that can be checked."""
    checked = _checked(schema)
    try:
        return checked is None or find_violation(checked, value) is None
    except ValueError:
        return True


@lru_cache(maxsize=256)
def _checked(schema: str) -> Mapping[str, Any] | None:
    """Return a schema; None if no answer can be checked by it."""
    try:
        value = json.loads(schema)
        check_schema(value)
    except (ValueError, AttributeError):
        return None
    return value if isinstance(value, Mapping) else None

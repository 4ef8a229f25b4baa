"""The form that a request asks its answer to have, a JSON Schema or tools, and whether an answer has it.

Judged is what the caller got. A schema that cannot be checked within limits, or is not valid, asks for JSON only.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from decisions.scorers.answers import Answer
from decisions.scorers.json_answers import NotJsonError, check_limits, check_schema, find_violation, parse_json
from decisions.scorers.tool_calls import parse_calls

_ANY_OBJECT: Final = {"type": "object"}


@dataclass(frozen=True)
class Form:
    """What a request asks.

    Attributes:
        schemas: The JSON Schema of the text; empty without one.
        tools: The JSON Schema of the arguments of each tool, by the name of the tool.
    """

    schemas: tuple[Any, ...]
    tools: Mapping[str, Any]

    @property
    def is_any(self) -> bool:
        """Return whether nothing is asked."""
        return not self.schemas and not self.tools

    def is_met(self, answer: Answer) -> bool:
        """Return whether an answer is as it was asked: calls of known tools, or a text."""
        try:
            values = parse_calls(answer) if self.tools else []
            if values or not self.schemas:
                called = zip(answer.calls, values, strict=True)
                return all(call.name in self.tools and _fits(value, self.tools[call.name]) for call, value in called)
            return _fits(parse_json(answer.text), self.schemas[0])
        except NotJsonError:
            return False


@lru_cache(maxsize=16)
def read_form(given: str) -> Form:
    """Return what a request asks, from its `excerpts.FIELDS` as JSON."""
    fields = json.loads(given)
    tools = [tool.get("function", tool) for tool in fields.get("tools") or ()]
    by_name = {tool["name"]: tool.get("parameters") or {} for tool in tools if "name" in tool}
    return Form(tuple(_schemas(fields)), by_name)


def _schemas(fields: Mapping[str, Any]) -> Iterator[Any]:
    structure = fields.get("structured_outputs") or {}
    if (schema := structure.get("json")) is not None:
        yield json.loads(schema) if isinstance(schema, str) else schema
    for asked in (fields.get("response_format") or {}, (fields.get("text") or {}).get("format") or {}):
        if asked.get("type") == "json_schema":
            schema = asked.get("json_schema", asked).get("schema")
            yield _ANY_OBJECT if schema is None else schema
        elif asked.get("type") == "json_object":
            yield _ANY_OBJECT


def _fits(value: Any, schema: Any) -> bool:
    """Return whether a value is valid by a JSON Schema, as far as that can be checked."""
    try:
        check_limits(schema)
        violation = find_violation(schema, value)
    except Exception:  # noqa: BLE001 - a schema that is not valid fails in any way
        return True
    return violation is None or not _is_valid(json.dumps(schema))


@lru_cache(maxsize=64)
def _is_valid(schema: str) -> bool:
    try:
        check_schema(json.loads(schema))
    except ValueError:
        return False
    return True

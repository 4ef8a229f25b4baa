"""Text features for telemetry: numbers from which the text cannot be restored.

The scorers of evaluations (`decisions.scorers`) define them; a child process computes them, because their libraries
are large. If a request prescribes JSON, a JSON Schema or tools, the delivered bytes are validated. A schema that is
invalid, or too costly to check, requires JSON only.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from contracts.facts.watch import Features
from decisions.scorers.answers import Answer, Call
from decisions.scorers.json_answers import NotJsonError, check_limits, check_schema, find_violation, parse_json
from decisions.scorers.languages import LEAST_LETTERS, Recognise, count_letters, language_share, prose_of
from decisions.scorers.reasoning import without_reasoning
from decisions.scorers.refusals import is_refusal
from decisions.scorers.repetition import repetition_ratio
from decisions.scorers.tool_calls import parse_calls
from services.gateway.domain.excerpts import LANGUAGE_CHARS, SAMPLED_CHARS, Described, Excerpts

_DATA: Final = "data: "
_ENDED: Final = frozenset({"completed", "incomplete"})
_ANY_OBJECT: Final = {"type": "object"}
_STRUCTURED = ("{", "[")


def read_delivered(body: bytes) -> Answer | None:
    """Return the first answer in a JSON body or event stream; None if unreadable."""
    try:
        return _read(list(_events(body.decode(errors="replace"))))
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return None


def _events(body: str) -> Iterator[Mapping[str, Any]]:
    if not body.startswith(_DATA) and f"\n{_DATA}" not in body:
        yield json.loads(body)
        return
    for line in body.split("\n"):
        if line.startswith(_DATA) and line[len(_DATA) :].startswith("{"):
            yield json.loads(line.removeprefix(_DATA))


def _read(events: list[Mapping[str, Any]]) -> Answer | None:
    choices = [choice for event in events for choice in event.get("choices") or () if choice.get("index") == 0]
    if choices:
        return Answer.of_choice(choices[0] if "message" in choices[0] else {"message": _join(choices)})
    wholes = [whole for event in events if (whole := event.get("response", event)).get("status") in _ENDED]
    return _of_response(wholes[-1]) if wholes else None


def _join(choices: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the message assembled from the deltas of a streamed answer."""
    deltas = [choice.get("delta") or {"content": choice.get("text")} for choice in choices]
    calls: dict[int, dict[str, str]] = {}
    for part in (part for delta in deltas for part in delta.get("tool_calls") or ()):
        call = calls.setdefault(part["index"], {"name": "", "arguments": ""})
        for name in call:
            call[name] += (part.get("function") or {}).get(name) or ""
    content = "".join(delta.get("content") or "" for delta in deltas)
    return {"content": content, "tool_calls": [{"function": calls[number]} for number in sorted(calls)]}


def _of_response(response: Mapping[str, Any]) -> Answer:
    items = response.get("output") or ()
    texts = [part.get("text") or "" for item in items if item.get("type") == "message" for part in item["content"]]
    calls = [Call(item["name"], item["arguments"]) for item in items if item.get("type") == "function_call"]
    return Answer(without_reasoning("".join(texts)), tuple(calls))


@dataclass(frozen=True)
class Form:
    """The answer format that a request prescribes.

    Attributes:
        schemas: The text's JSON Schema; empty without one.
        tools: The JSON Schema of each tool's arguments, by tool name.
    """

    schemas: tuple[Any, ...]
    tools: Mapping[str, Any]

    @property
    def is_any(self) -> bool:
        """Return whether any answer is valid."""
        return not self.schemas and not self.tools

    def is_met(self, answer: Answer) -> bool:
        """Return whether an answer is valid: tool calls or text that match their schemas."""
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
    """Return the prescribed format, from a request's `excerpts.FIELDS` as JSON."""
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
    """Return whether a value matches a JSON Schema; True if the schema is invalid or too costly to check."""
    try:
        check_limits(schema)
        violation = find_violation(schema, value)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - an invalid schema may raise anything
        return True
    return violation is None or not _is_valid(json.dumps(schema))


@lru_cache(maxsize=64)
def _is_valid(schema: str) -> bool:
    try:
        check_schema(json.loads(schema))
    except ValueError:
        return False
    return True


def describe(texts: Excerpts, recognise: Recognise) -> Described:
    """Return the features of excerpts; `valid_json` only if a format is prescribed."""
    if not texts.form or (form := read_form(texts.form)).is_any:
        return Described(_describe(texts, without_reasoning(texts.output), recognise))
    answer = read_delivered(texts.delivered)
    if answer is None:
        return describe_unjudged(texts)
    features = _describe(texts, answer.text, recognise)
    return Described(features.model_copy(update={"valid_json": form.is_met(answer)}))


def describe_unjudged(texts: Excerpts) -> Described:
    """Return the features without format and language: text and tool calls were not separated."""
    return Described(_describe(texts, "", lambda _: None), is_judged=False)


def _describe(texts: Excerpts, prose: str, recognise: Recognise) -> Features:
    sample = texts.output
    return Features(
        prompt_chars=texts.prompt_chars,
        output_chars=texts.output_chars,
        non_letter_ratio=non_letter_ratio(sample),
        repetition_ratio=repetition_ratio(sample),
        refusal=is_refusal(sample),
        empty=not sample.strip(),
        language_ratio=language_ratio(texts.asked, prose, recognise),
    )


def language_ratio(asked: str, answer: str, recognise: Recognise) -> float | None:
    """Return the share of an answer in the language of its request, 0 to 1; None if unknown.

    Unknown for JSON, short texts, and requests with different languages at both ends.
    """
    if not asked or answer.lstrip().startswith(_STRUCTURED):
        return None
    prose = prose_of(answer[-SAMPLED_CHARS:])[-LANGUAGE_CHARS:]
    if count_letters(prose) < LEAST_LETTERS:
        return None
    ends = {asked[:LANGUAGE_CHARS], asked[-LANGUAGE_CHARS:]}
    languages = {recognise(end) if count_letters(end) >= LEAST_LETTERS else None for end in ends}
    language = languages.pop() if len(languages) == 1 else None
    return None if language is None else language_share(prose, language, recognise)


def non_letter_ratio(text: str) -> float:
    """Return the share of non-letters among non-whitespace characters; 0 for no text."""
    visible = [char for char in text if not char.isspace()]
    return sum(not char.isalpha() for char in visible) / len(visible) if visible else 0.0

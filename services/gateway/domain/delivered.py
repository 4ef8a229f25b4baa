"""Reads the answer in the bytes that a caller got, after the answer: chats, completions and responses."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from decisions.scorers.answers import Answer, Call
from decisions.scorers.reasoning import without_reasoning

_DATA: Final = "data: "
_ENDED: Final = frozenset({"completed", "incomplete"})


def read_delivered(body: bytes) -> Answer | None:
    """Return the first answer in a body, or in a stream of events; None if none can be read."""
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
    """Return the message of the parts of a streamed answer."""
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

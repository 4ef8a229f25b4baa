"""Checks of a request's conversation: messages, items of the responses API, and their parts.

The engine validates each item against about thirty forms on the event loop that serves all requests: unknown items are
refused before. Standard library only, as `decisions.openai.requests`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from decisions.openai.limits import CostLimits, Refusal

_TEXT_PARTS: Final = frozenset(
    {"text", "input_text", "output_text", "refusal", "thinking", "reasoning_text", "summary_text"}
)

_ROLES: Final = frozenset({"assistant", "developer", "system", "user"})
_ITEMS: Final[Mapping[str, tuple[str, ...]]] = {
    "message": (),
    "function_call": ("arguments", "call_id", "name"),
    "function_call_output": ("call_id",),
    "reasoning": (),
}
"""Types of items of the responses API with their required text fields."""
_LISTS: Final = frozenset({"content", "output", "summary"})
"""Fields of an item that may be lists."""
_STATES: Final = frozenset({"completed", "in_progress", "incomplete"})


def check_conversation(kind: str, body: Mapping[str, Any], limits: CostLimits) -> Refusal | None:
    """Return why the messages or input of a body are refused; None if they are accepted."""
    items = sum(len(body[name]) for name in ("messages", "input") if isinstance(body.get(name), list))
    if kind == "embeddings":
        return None  # its inputs have a limit of their own
    for name, part in _content_parts(body):
        items += 1
        if not isinstance(part.get("type"), str) or part["type"] not in _TEXT_PARTS:
            message = f"{name} has a part of type {str(part.get('type'))[:80]}; only text is supported."
            return Refusal(400, "unsupported_parameter", message, name)
    if items > limits.items:
        name = "messages" if "messages" in body else "input"
        message = f"{name} has {items} messages and parts; the limit is {limits.items}. Join parts, or send fewer."
        return Refusal(400, "above_maximum_value", message, name)
    given = body.get("input")
    if kind != "responses" or not isinstance(given, list):
        return None
    return next((refusal for item in given if (refusal := _check_item(item))), None)


def _check_item(item: Any) -> Refusal | None:
    """Refuse an invalid item of the responses API."""
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if not isinstance(kind, str) or kind not in _ITEMS:
        message = f"input has an item of type {str(kind)[:80]}; there are {', '.join(sorted(_ITEMS))}."
        return Refusal(400, "unsupported_parameter", message, "input")
    for name, value in item.items():
        if value is not None and not isinstance(value, str) and not (name in _LISTS and isinstance(value, list)):
            return Refusal(400, "invalid_value", f"{name[:80]} of an item of input must be a text.", "input")
    missing = [name for name in _ITEMS[kind] if not isinstance(item.get(name), str)]
    if kind == "message" and (not isinstance(item.get("role"), str) or item["role"] not in _ROLES):
        missing.append("role")
    if kind == "message" and item.get("content") is None:
        missing.append("content")
    if kind == "function_call_output" and item.get("output") is None:
        missing.append("output")
    if missing or item.get("status") not in {None, *_STATES}:
        wrong = missing[0] if missing else "status"
        return Refusal(400, "invalid_value", f"An item of input with type {kind} lacks a valid {wrong}.", "input")
    return None


def _content_parts(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield field name and object of each message part of a body."""
    for name in ("messages", "input"):
        messages = body.get(name)
        for message in messages if isinstance(messages, list) else ():
            for holder in ("content", "output") if isinstance(message, dict) else ():
                parts = message.get(holder)
                for part in parts if isinstance(parts, list) else ():
                    if isinstance(part, dict):
                        yield name, part

"""Rows of an evaluation set, as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ROWS: Final = 10_000
"""Maximum rows that are read of a set."""
SET_BYTES: Final = 16 * 1024**2
"""Maximum bytes of a set."""
SLICES: Final = 32
"""Maximum slices of a set."""
ROW_BYTES: Final = 65_536
"""Maximum bytes of a row."""
_KEYS: Final = frozenset({"messages", "tools", "expected", "expect", "slice"})
_SLICE_CHARS: Final = 63


@dataclass(frozen=True)
class EvaluationRow:
    """One row of a set.

    Attributes:
        number: Line number in the set, from 1.
        messages: Messages in the form of the chat completions API.
        tools: Tools that the answer may call.
        expectations: Expectations by label of the scorer; an empty label has the right answer.
        slice: Part of the task; empty without one.
    """

    number: int
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    expectations: tuple[tuple[str, Any], ...] = ()
    slice: str = ""

    @property
    def last(self) -> str:
        """Return the text of the last message."""
        content = self.messages[-1].get("content")
        return content if isinstance(content, str) else ""


def read_rows(data: bytes) -> tuple[EvaluationRow, ...]:
    """Read the first `ROWS` rows of a set.

    Each line is an object with `messages` (or a text `prompt`), and optionally `tools`, `slice`, `expected` (or
    `completion`), the right answer, and `expect`, an object by label of the scorer.

    Raises:
        ValueError: A line cannot be read, or the set is empty; the message names line and advice.
    """
    if len(data) > SET_BYTES:
        raise ValueError(f"the set has {len(data):,} bytes; the limit is {SET_BYTES:,}: take fewer rows")
    rows: list[EvaluationRow] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(_read(number, line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if len(rows) == ROWS:
            break
    if not rows:
        raise ValueError("the set has no row; write one JSON object a line")
    slices = {row.slice for row in rows if row.slice}
    if len(slices) > SLICES:
        raise ValueError(f"the set has {len(slices)} slices; the limit is {SLICES}: join some")
    return tuple(rows)


def _read(number: int, line: bytes) -> EvaluationRow:
    if len(line) > ROW_BYTES:
        raise ValueError(f"it has {len(line):,} bytes; the limit is {ROW_BYTES:,}: shorten it")
    try:
        value = json.loads(line.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply; use fewer levels") from error
    if not isinstance(value, dict):
        raise ValueError("it is no object; write an object with messages and expected")  # noqa: TRY004 - of a line
    if isinstance(value.get("prompt"), str):
        value = {**value, "messages": [{"role": "user", "content": value["prompt"]}]}
        del value["prompt"]
        completion = value.pop("completion", None)
        if completion:
            value.setdefault("expected", completion)
    unknown = sorted(value.keys() - _KEYS)
    if unknown:
        raise ValueError(f"it has {unknown[0]!r}, which is unknown; there are {', '.join(sorted(_KEYS))}, and prompt")
    expect = value.get("expect", {})
    if not isinstance(expect, Mapping):
        raise ValueError('expect is no object; write an expectation by scorer, such as {"language": "de"}')  # noqa: TRY004 - of a line
    everyone = (("", value["expected"]),) if "expected" in value else ()
    return EvaluationRow(
        number=number,
        messages=_messages(value.get("messages", [])),
        tools=_objects("tools", value.get("tools", [])),
        expectations=(*everyone, *expect.items()),
        slice=_slice(value.get("slice", "")),
    )


def _messages(value: Any) -> tuple[dict[str, Any], ...]:
    messages = _objects("messages", value)
    if not messages or not all(isinstance(message.get("role"), str) for message in messages):
        raise ValueError('messages are missing, or one has no role; write [{"role": "user", "content": "…"}]')
    if messages[-1]["role"] == "assistant":
        raise ValueError("the last message is the assistant's: put what it should answer into expected")
    return messages


def _objects(name: str, value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError(f"{name} is no list of objects; write them as the OpenAI API takes them")
    return tuple(value)


def _slice(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _SLICE_CHARS or not value.isprintable() or value == "*":
        raise ValueError(f"slice is no name of up to {_SLICE_CHARS} characters")
    return value

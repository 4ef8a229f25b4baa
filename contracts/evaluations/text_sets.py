"""Calibration and evaluation texts of a checkpoint, as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SYSTEM_ROLES = ("system", "developer")
EVALUATION_RECORDS = 2_000
"""Number of records of an evaluation set that are used and must be valid; a set may have more."""


@dataclass(frozen=True)
class TextRecord:
    """One line: a conversation, a prompt with an optional completion, or a plain text.

    Attributes:
        messages: The conversation in the form of chat templates; roles and contents are not checked.
    """

    messages: tuple[dict[str, Any], ...] = ()
    prompt: str = ""
    completion: str = ""
    text: str = ""

    @property
    def turns(self) -> tuple[str, ...]:
        """Return the texts in order, without those of system roles."""
        if self.messages:
            texts = (message.get("content") for message in self.messages if message.get("role") not in SYSTEM_ROLES)
            return tuple(text for text in texts if isinstance(text, str) and text.strip())
        return tuple(value for value in (self.prompt, self.completion, self.text) if value.strip())


def read_text_records(data: bytes) -> Iterator[tuple[int, TextRecord | str]]:
    """Read JSON lines: strings, or objects with `messages`, `prompt` (optionally `completion`) or `text`.

    Returns:
        Line number, from 1, and the record or a description of its error, for each line that is not blank.
    """
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield number, _read(line)


def evaluation_records(data: bytes) -> tuple[TextRecord, ...]:
    """Read the first `EVALUATION_RECORDS` records of an evaluation set.

    Raises:
        ValueError: A line cannot be read or has no prompt, or the set is empty; the message names line and reason.
    """
    records: list[TextRecord] = []
    for number, record in read_text_records(data):
        problem = record if isinstance(record, str) else _problem(record)
        if problem is not None or isinstance(record, str):
            raise ValueError(f"line {number}: {problem}")
        records.append(record)
        if len(records) == EVALUATION_RECORDS:
            break
    if not records:
        raise ValueError("it contains no line")
    return tuple(records)


def _read(line: bytes) -> TextRecord | str:
    try:
        value = json.loads(line.decode())
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        return "not UTF-8"
    except UnicodeEncodeError:
        return "it contains a lone surrogate, which is not a character"
    except (ValueError, RecursionError) as error:
        return str(error)
    return _record_of({"text": value} if isinstance(value, str) else value)


def _record_of(value: Any) -> TextRecord | str:
    if isinstance(value, dict):
        messages, prompt, completion = (value.get(name) for name in ("messages", "prompt", "completion"))
        if isinstance(messages, list) and messages:
            objects = all(isinstance(message, dict) for message in messages)
            return TextRecord(messages=tuple(messages)) if objects else "a message needs a role"
        if isinstance(prompt, str) and (_is_text(prompt) or _is_text(completion)):
            return TextRecord(prompt=prompt, completion=completion if isinstance(completion, str) else "")
        if _is_text(value.get("text")):
            return TextRecord(text=value["text"])
    return "neither a text nor an object with messages, prompt or text"


def _problem(record: TextRecord) -> str | None:
    for message in record.messages:
        if not isinstance(message.get("role"), str):
            return "a message needs a role"
        calls_only = message.get("content") is None and message.get("tool_calls")
        if not isinstance(message.get("content"), str) and not calls_only:
            return "the content of a message must be a string"
    if record.messages and all(message["role"] == "assistant" for message in record.messages):
        return "all messages are from the assistant: there is nothing to answer"
    if not (record.messages or _is_text(record.prompt) or record.text):
        return "the prompt is empty"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())

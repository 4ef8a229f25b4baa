"""Answers that a drill alters: the texts in the engine's own bytes are replaced, all else stays."""

import json
from collections import Counter
from typing import Any, Final

_DATA = b"data: "
_END = b"\n\n"
_TEXTS: Final = frozenset({"content", "text", "delta", "refusal", "reasoning", "reasoning_content"})
"""Keys of the texts of an answer, in all formats of the API."""
_KEPT: Final = frozenset({"function_call", "logprobs", "metadata", "tool_calls", "tools", "usage"})
"""Keys whose values stay: they are no texts of the answer, or would not be valid any more."""


class AlteredBody:
    """Alters the body of one answer piece by piece: complete JSON, or server-sent events.

    Args:
        stream: the body consists of server-sent events.
        finish_reason: replaces the finish reason of the answer; None leaves it.
    """

    def __init__(self, *, stream: bool, finish_reason: str | None = None) -> None:
        self._stream = stream
        self._finish_reason = finish_reason
        self._rest = b""
        self._whole = ""
        self._sent_chars: Counter[int] = Counter()

    def feed(self, body: bytes, text: str) -> bytes:
        """Return the bytes for the caller instead of a piece; complete events and bodies only.

        Args:
            body: bytes of the engine.
            text: what the answer says now, in addition to the texts of earlier pieces.
        """
        self._whole += text
        self._rest += body
        if not self._stream:
            return self._alter_body()
        *events, self._rest = self._rest.split(_END)
        return b"".join(self._alter_event(event) + _END for event in events)

    def _alter_body(self) -> bytes:
        try:
            altered = _write(self._alter(json.loads(self._rest), complete=True))
        except (ValueError, RecursionError):
            return b""
        self._rest = b""
        return altered

    def _alter_event(self, event: bytes) -> bytes:
        return b"\n".join(self._alter_line(line) for line in event.split(b"\n"))

    def _alter_line(self, line: bytes) -> bytes:
        try:
            value = json.loads(line.removeprefix(_DATA)) if line.startswith(_DATA) else None
            if not isinstance(value, dict):
                return line
            # Events of the responses API repeat the complete text; all others have only what is new.
            return _DATA + _write(self._alter(value, complete=str(value.get("type")).startswith("response.")))
        except (ValueError, RecursionError):
            return line

    def _alter(self, value: Any, *, complete: bool, choice: int = 0) -> Any:
        """Return a JSON value with its texts replaced, by the complete text of the answer or what is new of it.

        Args:
            value: any JSON value of the answer.
            complete: it repeats the text.
            choice: the answer that it belongs to; all have the same text.
        """
        if isinstance(value, list):
            return [self._alter(item, complete=complete, choice=choice) for item in value]
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("index"), int):
            choice = value["index"]
        return {name: self._alter_member(name, item, complete=complete, choice=choice) for name, item in value.items()}

    def _alter_member(self, name: str, value: Any, *, complete: bool, choice: int) -> Any:
        if name in _KEPT:
            return value
        if name in _TEXTS and isinstance(value, str) and value:
            return self._whole if complete and name != "delta" else self._take_new(choice)
        if name == "finish_reason" and value is not None and self._finish_reason is not None:
            return self._finish_reason
        return self._alter(value, complete=complete, choice=choice)

    def _take_new(self, choice: int) -> str:
        """Return the text that an answer has not had yet."""
        text = self._whole[self._sent_chars[choice] :]
        self._sent_chars[choice] = len(self._whole)
        return text


def _write(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can say
        return json.dumps(value, separators=(",", ":")).encode()

"""Answers that a drill alters: the texts in the engine's own bytes are replaced, all else stays."""

import json
from typing import Any, Final

from services.gateway.domain import drills
from services.gateway.domain.drills import Alteration

_DATA = b"data: "
_END = b"\n\n"
_DONE = b"[DONE]"
_TEXTS: Final = frozenset({"content", "text", "delta", "refusal", "reasoning", "reasoning_content", "arguments"})
"""Keys of the texts of an answer, in all formats of the API."""


class AlteredBody:
    """Alters the body of one answer piece by piece: complete JSON, or server-sent events."""

    def __init__(self, alteration: Alteration, *, stream: bool) -> None:
        self._alteration = alteration
        self._stream = stream
        self._rest = b""
        self._begun = False

    def feed(self, body: bytes, tokens: int) -> bytes:
        """Return the bytes for the caller instead of a piece with so many tokens; complete events and bodies only."""
        self._rest += body
        if not self._stream:
            return self._alter_whole(tokens)
        *events, self._rest = self._rest.split(_END)
        return b"".join(self._alter_event(event, tokens) + _END for event in events)

    def _alter_whole(self, tokens: int) -> bytes:
        try:
            value = json.loads(self._rest)
        except ValueError:
            return b""
        self._rest = b""
        return json.dumps(self._alter(value, tokens), ensure_ascii=False, separators=(",", ":")).encode()

    def _alter_event(self, event: bytes, tokens: int) -> bytes:
        lines = event.split(b"\n")
        return b"\n".join(self._alter_line(line, tokens) for line in lines)

    def _alter_line(self, line: bytes, tokens: int) -> bytes:
        if not line.startswith(_DATA) or line == _DATA + _DONE:
            return line
        value = self._alter(json.loads(line.removeprefix(_DATA)), tokens)
        return _DATA + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

    def _alter(self, value: Any, tokens: int) -> Any:
        """Return a JSON value with its texts replaced."""
        if isinstance(value, list):
            return [self._alter(item, tokens) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            name: self._replace(item, tokens)
            if name in _TEXTS and isinstance(item, str) and item
            else self._alter(item, tokens)
            for name, item in value.items()
        }

    def _replace(self, text: str, tokens: int) -> str:
        replaced = drills.alter(self._alteration, text, tokens, first=not self._begun)
        self._begun = self._begun or bool(replaced)
        return replaced

"""The format of answers: OpenAI's objects and server-sent events."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Usage:
    """Token counts of one answer."""

    input_tokens: int = 0
    output_tokens: int = 0

    def body(self) -> dict[str, int]:
        """Return OpenAI's `usage`."""
        total = self.input_tokens + self.output_tokens
        return {"prompt_tokens": self.input_tokens, "completion_tokens": self.output_tokens, "total_tokens": total}


@dataclass(frozen=True)
class ResponseFormat:
    """Makes the objects of one answer; its attributes are the fields that all of them share."""

    kind: Literal["chat", "completion"]
    id: str
    created: int
    model: str
    fingerprint: str
    include_usage: bool = False

    def complete(self, text: str, finish_reason: str, usage: Usage) -> dict[str, Any]:
        """Return the complete answer as one object."""
        if self.kind == "chat":
            message = {"role": "assistant", "content": text, "refusal": None}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        else:
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        kind = "chat.completion" if self.kind == "chat" else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": usage.body()}

    def first_chunks(self) -> Iterator[dict[str, Any]]:
        """Yield the objects before any text: the role of a chat answer."""
        if self.kind == "chat":
            yield self._chunk({"delta": {"role": "assistant", "content": ""}}, None)

    def chunk(self, text: str) -> dict[str, Any]:
        """Return the object of a piece of text."""
        return self._chunk({"delta": {"content": text}} if self.kind == "chat" else {"text": text}, None)

    def last_chunks(self, finish_reason: str, usage: Usage) -> Iterator[dict[str, Any]]:
        """Yield the last objects: the finish reason, and the usage if it was requested."""
        yield self._chunk({"delta": {}} if self.kind == "chat" else {"text": ""}, finish_reason)
        if self.include_usage:
            kind = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
            yield {**self._head(kind), "choices": [], "usage": usage.body()}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _chunk(self, content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self.include_usage else {}
        return {**self._head(kind), "choices": [choice], **usage}


def event(body: dict[str, Any]) -> bytes:
    """Return an object as a server-sent event; JSON has no line breaks, so one `data:` line is enough."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def model_card(name: str, created: int) -> dict[str, Any]:
    """Return a model as `/v1/models` lists it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "slipway"}

"""The answers of the toy engine: text, form in the OpenAI API, and records."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from toy_engine import make_token
from toy_requests import Asked


@dataclass
class TextAnswer:
    """One answer during its generation.

    Attributes:
        index: its number among all answers of the request.
        name: its name in records, `<prompt>.<number>`.
        seed: seed of the answer's tokens.
        is_mute: whether all tokens are empty.
        text: the text delivered so far.
        tokens: all of its tokens.
        reason: the finish reason; None before the end.
        stop: the stop sequence that ended it.
    """

    index: int
    name: str
    seed: str
    is_mute: bool
    text: str = ""
    tokens: list[str] = field(default_factory=list)
    reason: str | None = None
    stop: str | None = None

    def grow(self, asked: Asked) -> str:
        """Generate a token and return the text that it adds; a possible start of a stop sequence is held back.

        The arguments of a call are one token.
        """
        if asked.call is not None:
            self.tokens, self.text, self.reason = [asked.call[1]], asked.call[1], "tool_calls"
            return self.text
        self.tokens.append("" if self.is_mute else make_token(self.seed, len(self.tokens)))
        whole = "".join(self.tokens)
        if len(self.tokens) >= asked.length:
            self.reason = asked.reason
        end = len(whole)
        if asked.stops and len(self.tokens) > asked.min_tokens:
            matches = [(at, stop) for stop in asked.stops if (at := whole.find(stop, len(self.text))) >= 0]
            if matches:
                (end, self.stop), self.reason = min(matches), "stop"
            elif self.reason is None:
                end = max(len(self.text), end - max(map(len, asked.stops)) + 1)
        delta, self.text = whole[len(self.text) : end], whole[:end]
        return delta


@dataclass
class Record:
    """The engine's work for one request since the last record, in the form of `openai_record`."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    texts: list[tuple[str, str]] = field(default_factory=list)
    finish_reasons: dict[str, str] = field(default_factory=dict)
    first_token_ms: float | None = None
    logprob_mean: float | None = None
    error: dict[str, str] | None = None

    def note(self, answer: TextAnswer, delta: str) -> None:
        """Note a token of an answer."""
        self.output_tokens += 1
        if delta:
            self.texts.append((answer.name, delta))
        if answer.reason is not None:
            self.finish_reasons[answer.name] = answer.reason

    def take(self) -> dict[str, Any]:
        """Return the totals so far, and the texts and finish reasons since the last call."""
        record: dict[str, Any] = {"prompt_tokens": self.prompt_tokens, "output_tokens": self.output_tokens}
        if self.texts:
            record["texts"], self.texts = self.texts, []
        if self.finish_reasons:
            record["finish_reasons"], self.finish_reasons = self.finish_reasons, {}
        if self.first_token_ms is not None:
            record |= {"queue_ms": 0.0, "first_token_ms": round(self.first_token_ms, 3), "nan_logits": False}
        if self.logprob_mean is not None and self.output_tokens:
            record["logprob_mean"] = self.logprob_mean
        if self.error is not None:
            record["error"] = self.error
        return record


class AnswerFormat:
    """Writes answers as vLLM does: a whole body, or the events of a stream."""

    def __init__(self, asked: Asked, request_id: str, model: str, fingerprint: str | None, logprob: float) -> None:
        """Set the fields shared by all chunks; `logprob` is the log-probability of every token."""
        self._asked = asked
        self._is_chat = asked.kind == "chat"
        self._logprob = logprob
        self._fingerprint = fingerprint
        names = ("chatcmpl", "chat.completion") if self._is_chat else ("cmpl", "text_completion")
        self._head = {"id": f"{names[0]}-{request_id}", "object": names[1], "created": int(time.time()), "model": model}

    def whole(self, answers: Sequence[TextAnswer]) -> bytes:
        """Return the body of an answer that is not streamed."""
        choices = [self._choice(answer, self._echoed(answer) + answer.text, answer.tokens) for answer in answers]
        usage = self._usage(answers)
        return json.dumps(
            {**self._head, "choices": choices, "system_fingerprint": self._fingerprint, "usage": usage}
        ).encode()

    def events(self, grown: Iterable[tuple[TextAnswer, str]]) -> bytes:
        """Return the events of one step of the engine: for each answer that grew, its new text."""
        chunks = []
        for answer, delta in grown:
            is_first, text = len(answer.tokens) == 1, delta
            if is_first and self._is_chat:
                role = {"index": answer.index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
                chunks.append(self._chunk([role]))
            elif is_first:
                text = self._echoed(answer) + delta
            more: dict[str, Any] = {}
            if answer.reason is not None and not self._asked.include_usage and self._fingerprint:
                more = {"system_fingerprint": self._fingerprint}
            chunks.append(self._chunk([self._choice(answer, text, answer.tokens[-1:], "delta")], **more))
        return b"".join(chunks)

    def last_events(self, answers: Sequence[TextAnswer]) -> bytes:
        """Return the end of a stream."""
        if not self._asked.include_usage:
            return DONE
        return self._chunk([], usage=self._usage(answers), system_fingerprint=self._fingerprint) + DONE

    def _chunk(self, choices: Sequence[Any], **more: Any) -> bytes:
        name = self._head["object"] + (".chunk" if self._is_chat else "")
        return event({**self._head, "object": name, "choices": choices, **more})

    def _choice(self, answer: TextAnswer, text: str, tokens: Sequence[str], holder: str = "message") -> dict[str, Any]:
        content = {"content": text} if holder == "delta" else {"role": "assistant", "content": text}
        if self._asked.call is not None:
            function = dict(zip(("name", "arguments"), self._asked.call, strict=True))
            call = {"index": 0, "id": f"call-{answer.name}", "type": "function", "function": function}
            content = {**content, "content": None, "tool_calls": [call]}
        return {
            "index": answer.index,
            **({holder: content} if self._is_chat else {"text": text}),
            "logprobs": self._logprobs(answer, tokens),
            "finish_reason": answer.reason,
            "stop_reason": answer.stop,
        }

    def _logprobs(self, answer: TextAnswer, tokens: Sequence[str]) -> dict[str, Any] | None:
        if self._asked.top is None:
            return None
        has_top = self._asked.top > 0
        if self._is_chat:
            entries = [{"token": token, "logprob": self._logprob, "bytes": list(token.encode())} for token in tokens]
            return {"content": [{**entry, "top_logprobs": [entry] if has_top else []} for entry in entries]}
        before = sum(map(len, answer.tokens)) - sum(map(len, tokens))
        return {
            "text_offset": [before + sum(map(len, tokens[:number])) for number in range(len(tokens))],
            "token_logprobs": [self._logprob] * len(tokens),
            "tokens": list(tokens),
            "top_logprobs": [{token: self._logprob} if has_top else None for token in tokens],
        }

    def _echoed(self, answer: TextAnswer) -> str:
        return (
            self._asked.prompts[answer.index // self._asked.answers] if self._asked.echo and not self._is_chat else ""
        )

    def _usage(self, answers: Sequence[TextAnswer]) -> dict[str, int]:
        generated = sum(len(answer.tokens) for answer in answers)
        return {
            "prompt_tokens": self._asked.prompt_tokens,
            "total_tokens": self._asked.prompt_tokens + generated,
            "completion_tokens": generated,
        }


def event(value: Any) -> bytes:
    """Return an event of a stream."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"

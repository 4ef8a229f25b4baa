"""Answers that a caller wants whole, put together from the events of a stream: so that their first token is timed.

Only where that makes no difference: not where tools are called or more than text is asked for, because servers stream
that in another form than they answer it.
"""

from collections.abc import Mapping
from typing import Any, Final

_PATHS: Final = {"/v1/chat/completions": "chat.completion", "/v1/completions": "text_completion"}
_TAKEN: Final = frozenset(
    {
        "model", "messages", "prompt", "stream", "n", "user", "seed", "stop", "temperature", "top_p", "top_k", "min_p",
        "max_tokens", "max_completion_tokens", "min_tokens", "frequency_penalty", "presence_penalty", "ignore_eos",
        "repetition_penalty", "logit_bias", "stop_token_ids", "response_format", "reasoning_effort", "metadata",
        "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "cache_salt", "priority",
    }
)  # fmt: skip
"""Parameters that change what an answer is, and not its form."""


def may_gather(path: str, body: Mapping[str, Any]) -> bool:
    """Return whether the answer to a request is the same, put together from a stream."""
    return path in _PATHS and not body.get("stream") and _TAKEN.issuperset(body)


class GatheredAnswer:
    """The answer so far."""

    def __init__(self, path: str) -> None:
        """Begin without an event."""
        self._is_chat = path == "/v1/chat/completions"
        self._head: dict[str, Any] = {"object": _PATHS[path]}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Any = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Add what an event says of it."""
        self._head = {"id": chunk.get("id"), **self._head, **{key: chunk.get(key) for key in ("created", "model")}}
        self._usage = chunk.get("usage") or self._usage
        for part in (part for part in _listed(chunk.get("choices")) if isinstance(part, dict)):
            index = part["index"] if type(part.get("index")) is int else 0
            texts: dict[str, Any] = {"role": "assistant", "content": ""} if self._is_chat else {"text": ""}
            begun = {"index": index, **({"message": texts} if self._is_chat else texts), "logprobs": None}
            choice = self._choices.setdefault(index, begun)
            into, new = (
                (choice["message"], part.get("delta")) if self._is_chat else (choice, {"text": part.get("text")})
            )
            for key, value in new.items() if isinstance(new, dict) else ():
                if isinstance(value, str) and key != "role":
                    into[key] = (into.get(key) or "") + value
            choice |= {key: part[key] for key in ("finish_reason", "stop_reason") if part.get(key) is not None}

    def to_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        choices = [{"finish_reason": None, **self._choices[index]} for index in sorted(self._choices)]
        return {**self._head, "choices": choices, "usage": self._usage}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

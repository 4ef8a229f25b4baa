"""The prompts of a benchmark: ours, or those of the model's own evaluation set."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.vocabulary import Digest, digest_of_json

CHARS_PER_TOKEN = 2.0
"""A cautious lower bound; a prompt that might not fit the context by it is left out, not cut."""
MAX_PROMPTS = 2_000


class _InvalidLineError(ValueError):
    """A line of an evaluation set is JSON, but no prompt."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """A conversation to render with the target's chat template, or a text to send as it is."""

    messages: tuple[Message, ...] = ()
    text: str = ""

    @property
    def chars(self) -> int:
        """Length of everything that is said."""
        return len(self.text) + sum(len(message.content) for message in self.messages)


def asked(question: str) -> Prompt:
    """Give the prompt of one question."""
    return Prompt(messages=(Message("user", question),))


def digest_prompts(prompts: Sequence[Prompt]) -> Digest:
    """Give the digest of a prompt set, for the output key."""
    return digest_of_json([
        {"text": prompt.text, "messages": [[message.role, message.content] for message in prompt.messages]}
        for prompt in prompts
    ])  # fmt: skip


def parse_evaluation(data: bytes) -> tuple[Prompt, ...]:
    """Read an evaluation set: JSON lines, each a string, or an object with `messages`, `prompt` or `text`.

    `messages` and `prompt` go through the chat template, a string and `text` are sent as they are. At most
    `MAX_PROMPTS` lines are read.

    Raises:
        ValueError: A line is none of these, or there is no line; the message says which and why.
    """
    found: list[Prompt] = []
    for number, line in _lines(data):
        try:
            prompt = _parse_line(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from error
        found.append(prompt)
        if len(found) == MAX_PROMPTS:
            break
    if not found:
        raise ValueError("it holds no line")
    return tuple(found)


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number}: not UTF-8") from error
        if line:
            yield number, line


def _parse_line(value: Any) -> Prompt:
    if isinstance(value, str) and value.strip():
        return Prompt(text=value)
    if isinstance(value, dict):
        if isinstance(value.get("messages"), list) and value["messages"]:
            return Prompt(messages=_asking(tuple(_parse_message(one) for one in value["messages"])))
        if isinstance(value.get("prompt"), str) and value["prompt"].strip():
            return asked(value["prompt"])
        if isinstance(value.get("text"), str) and value["text"].strip():
            return Prompt(text=value["text"])
    raise _InvalidLineError("neither a text nor an object with messages, prompt or text")


def _parse_message(value: Any) -> Message:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise _InvalidLineError("a message needs a role")
    if not isinstance(value.get("content"), str):
        raise _InvalidLineError("a message needs its content as a text")
    return Message(value["role"], value["content"])


def _asking(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Leave out the answers at the end: they are what the model is to say."""
    while messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    if not messages:
        raise _InvalidLineError("the messages ask nothing")
    return messages


def choose_fitting(prompts: Sequence[Prompt], *, context_tokens: int, output_tokens: int) -> tuple[Prompt, ...]:
    """Leave out prompts that might not fit the smaller of the two contexts together with the answer."""
    room = (context_tokens - output_tokens) * CHARS_PER_TOKEN
    return tuple(prompt for prompt in prompts if prompt.chars <= room)

"""Prompts of a benchmark, from the model's evaluation set or the defaults, and their fit into the context."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from contracts.evaluations.text_sets import TextRecord, evaluation_records
from contracts.vocabulary import Digest, digest_of_json

CHARS_PER_TOKEN = 2.0
"""Lower bound for English prose; other texts: `fits`. A prompt that is too long is omitted, not cut."""
ADDED_TOKENS = 8
"""Maximum tokens that a tokenizer adds to a text, such as a begin-of-text token."""

Length = int | Literal["refused", "unknown"]
"""A prompt's tokens as the engine counts them, or why there is no count."""


@dataclass(frozen=True)
class Message:
    """A turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """A conversation for the target's chat template, or a text to send unchanged."""

    messages: tuple[Message, ...] = ()
    text: str = ""

    @property
    def chars(self) -> int:
        """Return the total characters."""
        return len(self.text) + sum(len(message.content) for message in self.messages)


def ask_once(question: str) -> Prompt:
    """Return a prompt of one user turn."""
    return Prompt(messages=(Message("user", question),))


def digest_prompts(prompts: Sequence[Prompt]) -> Digest:
    """Return the digest of prompts, for the output key."""
    return digest_of_json(
        [
            {"text": prompt.text, "messages": [[message.role, message.content] for message in prompt.messages]}
            for prompt in prompts
        ]
    )


def parse_evaluation(data: bytes) -> tuple[Prompt, ...]:
    """Parse an evaluation set: JSON lines, each a string or an object.

    Objects have `messages` or `prompt`, rendered by the chat template, or `text`, sent unchanged like strings. Trailing
    assistant turns are removed, because the model generates them.

    Raises:
        ValueError: There is no line, or a line has another format; the message names it.
    """
    return tuple(_prompt_of(record) for record in evaluation_records(data))


def _prompt_of(record: TextRecord) -> Prompt:
    if record.prompt:
        return ask_once(record.prompt)
    messages = [Message(turn["role"], turn["content"] or "") for turn in record.messages]
    while messages and messages[-1].role == "assistant":
        messages.pop()
    return Prompt(messages=tuple(messages), text=record.text)


def choose_fitting(prompts: Sequence[Prompt], *, context_tokens: int, output_tokens: int) -> tuple[Prompt, ...]:
    """Return the prompts that may fit the context with their answer, judged by characters."""
    limit_chars = (context_tokens - output_tokens) * CHARS_PER_TOKEN
    return tuple(prompt for prompt in prompts if prompt.chars <= limit_chars)


def may_overflow(text: str | None, *, limit_tokens: int) -> bool:
    """Return whether a rendered prompt may exceed the token limit: each token has at least one UTF-8 byte."""
    return text is not None and len(text.encode(errors="replace")) + ADDED_TOKENS > limit_tokens


def fits(candidate: Length, baseline: Length, *, limit_tokens: int) -> bool:
    """Return whether a prompt is used, given its length on both sides.

    A prompt that the baseline refuses shows nothing about the candidate. A prompt that only the candidate refuses
    does: production would send it.
    """
    if any(isinstance(length, int) and length > limit_tokens for length in (candidate, baseline)):
        return False
    return baseline != "refused" and (candidate != "refused" or baseline != "unknown")

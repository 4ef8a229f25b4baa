"""The prompts of a benchmark: the defaults, or the rows of the model's evaluation set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from contracts.evaluations.text_sets import TextRecord, evaluation_records
from contracts.vocabulary import Digest, digest_of_json

CHARS_PER_TOKEN = 2.0
"""A lower bound of English prose: a longer prompt is left out, not cut. For other texts: see `fits`."""
ADDED_TOKENS = 8
"""The most tokens that a tokenizer adds to those of the text, such as the begin of text."""

Length = int | Literal["refused", "unknown"]
"""Tokens of a prompt as an engine counts them; or it refused the prompt, or did not answer."""


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
        """Return the length of all texts."""
        return len(self.text) + sum(len(message.content) for message in self.messages)


def ask_once(question: str) -> Prompt:
    """Return the prompt of one question."""
    return Prompt(messages=(Message("user", question),))


def digest_prompts(prompts: Sequence[Prompt]) -> Digest:
    """Return the digest of a prompt set, for the output key."""
    return digest_of_json(
        [
            {"text": prompt.text, "messages": [[message.role, message.content] for message in prompt.messages]}
            for prompt in prompts
        ]
    )


def parse_evaluation(data: bytes) -> tuple[Prompt, ...]:
    """Return the prompts of an evaluation set: JSON lines, each a string or an object.

    An object has `messages`, `prompt` or `text`. `messages` and `prompt` are rendered with the chat template, a string
    and `text` are sent unchanged. Answers at the end of a conversation are left out: the model generates them.

    Raises:
        ValueError: A line has another format, or there is no line; the message says which and why.
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
    """Return the prompts that may fit the context together with the answer, by their length in characters."""
    limit_chars = (context_tokens - output_tokens) * CHARS_PER_TOKEN
    return tuple(prompt for prompt in prompts if prompt.chars <= limit_chars)


def may_overflow(text: str | None, *, limit_tokens: int) -> bool:
    """Return whether a rendered prompt can have more tokens than the limit: a token has at least one byte of UTF-8."""
    return text is not None and len(text.encode(errors="replace")) + ADDED_TOKENS > limit_tokens


def fits(candidate: Length, baseline: Length, *, limit_tokens: int) -> bool:
    """Return whether a prompt can be used, by its length on both sides.

    A prompt that the baseline does not take, too, says nothing about the candidate. One that only the candidate refuses
    does: production would send it.
    """
    if any(isinstance(length, int) and length > limit_tokens for length in (candidate, baseline)):
        return False
    return baseline != "refused" and (candidate != "refused" or baseline != "unknown")

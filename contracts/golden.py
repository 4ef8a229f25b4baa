"""Golden prompts: fixed prompts of a policy, and what a good version answers to each at temperature 0."""

from __future__ import annotations

import json
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

PROMPTS: Final = 16
"""The most golden prompts of a policy."""
SET_BYTES: Final = 16_384
"""The most bytes of all golden prompts of a policy together, as JSON: each version on a route has its own."""
TOKENS_PER_S: Final = 64.0
"""The most tokens per second that the golden prompts of a policy may ask of each of the two versions, on average."""
_FOLDED: Final = 3
"""A character has at most so many where upper and lower case are the same: ß is ss."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Texts = Annotated[tuple[Text, ...], Field(max_length=8)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Expectation(_Strict):
    """What an answer must be; all that is declared must hold.

    White space at both ends of the answer is ignored. There are no regular expressions: one can take hours on an answer
    that a version of the model chooses, in the service that rolls back.
    """

    equals: Text | None = None
    """The whole answer."""
    contains: Texts = ()
    """Texts that the answer must all contain."""
    excludes: Texts = ()
    """Texts of which the answer may contain none."""
    min_chars: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Fewest characters of the answer."""
    max_chars: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Most characters of the answer."""
    ignore_case: bool = False
    """Whether upper and lower case are the same."""

    @model_validator(mode="after")
    def _can_fail_and_hold(self) -> Expectation:
        lowest, highest = self.min_chars or 0, self.max_chars
        if not (self.equals or self.contains or self.excludes or lowest or highest):
            msg = "expect is empty; declare equals, contains, excludes, min_chars or max_chars"
            raise ValueError(msg)
        if highest is not None and lowest > highest:
            msg = f"expect: min_chars is {lowest}, above max_chars, {highest}; no answer can be both"
            raise ValueError(msg)
        if self.equals is not None and (self.contains or self.excludes or lowest or highest):
            msg = "expect: equals is the whole answer; leave contains, excludes, min_chars and max_chars out"
            raise ValueError(msg)
        if self.equals is not None and not self.equals.strip():
            msg = "expect: equals is white space, which is ignored at both ends of an answer"
            raise ValueError(msg)
        fold = str.casefold if self.ignore_case else str
        contrary = next((out for out in self.excludes for text in self.contains if fold(out) in fold(text)), None)
        if contrary is not None:
            msg = f"expect: {contrary!r} is excluded, and part of a text that the answer must contain"
            raise ValueError(msg)
        fewest = max((len(text) for text in self.contains), default=0)
        if highest is not None and fewest > highest * (_FOLDED if self.ignore_case else 1):
            msg = f"expect: an answer must contain a text of {fewest} characters, above max_chars, {highest}"
            raise ValueError(msg)
        return self


class GoldenPrompt(_Strict):
    """One prompt, and what a good version answers to it."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """Unique in the policy; events name it."""
    prompt: Annotated[str, StringConstraints(min_length=1, max_length=4000)]
    """The text: a message of a user where the version has a chat template, otherwise what it continues."""
    max_tokens: Annotated[int, Field(ge=1, le=256)] = 64
    """Most tokens of the answer."""
    expect: Expectation
    """What the answer must be."""


class GoldenPrompts(_Strict):
    """Prompts that our own probes ask the active version and the previous one, for as long as the version serves.

    Where the active version fails a prompt that the previous one passes, the version has fallen on it. Falls raise an
    alert of their own, which moves no traffic.
    """

    prompts: Annotated[tuple[GoldenPrompt, ...], Field(max_length=PROMPTS)] = ()
    """The prompts; without any, none are asked."""
    every_s: Annotated[float, Field(ge=10.0, le=86_400.0)] = 60.0
    """Seconds from one check to the next; two checks in a row must show a fall."""
    allowed_falls: Annotated[int, Field(ge=0)] = 0
    """How many prompts the version may fail that the previous one passes, without an alert."""

    @model_validator(mode="after")
    def _is_a_small_set(self) -> GoldenPrompts:
        names = [prompt.name for prompt in self.prompts]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            msg = f"the golden prompt {repeated!r} is declared more than once; names must be unique"
            raise ValueError(msg)
        if self.allowed_falls and self.allowed_falls >= len(names):
            msg = f"golden.allowed_falls is {self.allowed_falls}; with {len(names)} prompts it must be lower"
            raise ValueError(msg)
        tokens_per_s = sum(prompt.max_tokens for prompt in self.prompts) / self.every_s
        if tokens_per_s > TOKENS_PER_S:
            msg = (
                f"golden asks for up to {tokens_per_s:,.0f} tokens per second of each version; the limit is "
                f"{TOKENS_PER_S:g}; raise every_s, or lower max_tokens"
            )
            raise ValueError(msg)
        size = len(json.dumps(self.model_dump(mode="json"), ensure_ascii=False).encode())
        if size > SET_BYTES:
            msg = f"golden has {size:,} bytes as JSON; the limit is {SET_BYTES:,}; use fewer or shorter prompts"
            raise ValueError(msg)
        return self

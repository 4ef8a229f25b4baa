"""Excerpts of a request and its answer, kept until their features are computed."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from contracts.facts.watch import Features
from decisions.scorers.repetition import TAIL_CHARS

SAMPLED_CHARS: Final = 20_000
"""Only the beginning and the end of longer texts are examined, so that the cost per request is bounded."""
LANGUAGE_CHARS: Final = 200
"""The language is told by so much of the end of an answer, and of both ends of what was asked."""
FIELDS: Final = ("response_format", "structured_outputs", "text", "tools")
"""The fields in which a request says what form its answer is to have."""


@dataclass(frozen=True)
class Excerpts:
    """The texts that features are computed from.

    Attributes:
        asked: Both ends of the user's last text; empty if the language is not looked at.
        output: Beginning and end of the answer, as the engine generated it.
        prompt_chars, output_chars: The lengths of the whole texts.
        form: What the request says of the form of its answer, as JSON (`FIELDS`); empty if it says nothing.
        delivered: The bytes that the caller got, where the request says so much; empty if they are too many.
        holder: The team of the caller, or the caller.
    """

    asked: str
    output: str
    prompt_chars: int
    output_chars: int
    form: str = ""
    delivered: bytes = b""
    holder: str = ""

    @classmethod
    def of(
        cls,
        asked: str,
        output: str,
        *,
        prompt_chars: int | None = None,
        form: str = "",
        delivered: bytes = b"",
        holder: str = "",
    ) -> "Excerpts":
        """Return the excerpts of a request and its answer; `prompt_chars` is the length of all texts of the request."""
        is_long = len(output) > SAMPLED_CHARS
        return cls(
            asked if len(asked) <= 2 * LANGUAGE_CHARS else asked[:LANGUAGE_CHARS] + asked[-LANGUAGE_CHARS:],
            output[: SAMPLED_CHARS - TAIL_CHARS] + output[-TAIL_CHARS:] if is_long else output,
            len(asked) if prompt_chars is None else prompt_chars,
            len(output),
            form,
            delivered,
            holder,
        )

    @property
    def chars(self) -> int:
        """Return how many characters they have."""
        return len(self.asked) + len(self.output) + len(self.form) + len(self.delivered)


class Described(NamedTuple):
    """The features of a text.

    Attributes:
        features: Its features.
        is_judged: Whether the required form of the answer was checked; False if that took too long, or the bytes are
            too many or not readable.
    """

    features: Features
    is_judged: bool = True

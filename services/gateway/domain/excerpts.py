"""Bounded excerpts of a request and its answer, input of the text features in telemetry."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from contracts.facts.watch import Features
from decisions.scorers.repetition import TAIL_CHARS

SAMPLED_CHARS: Final = 20_000
"""Longer answers are cut to their beginning and end, to bound the cost per request."""
LANGUAGE_CHARS: Final = 200
"""Characters for language detection: the end of the answer, and both ends of the user's text."""
FIELDS: Final = ("response_format", "structured_outputs", "text", "tools")
"""Request fields that prescribe the answer's format."""


@dataclass(frozen=True)
class Excerpts:
    """The texts that features are computed from.

    Attributes:
        asked: Both ends of the user's last text; empty to skip language detection.
        output: Beginning and end of the generated answer.
        prompt_chars, output_chars: Lengths of the whole texts.
        form: The request's `FIELDS` as JSON; empty if no format is prescribed.
        delivered: The bytes sent to the caller if a format is prescribed; empty if too long.
        holder: The caller's team, else its key name.
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
        """Return the total size in characters and bytes."""
        return len(self.asked) + len(self.output) + len(self.form) + len(self.delivered)


class Described(NamedTuple):
    """The features of a request and its answer.

    Attributes:
        features: The features.
        is_judged: False if the prescribed format could not be checked: too slow, too long, or unreadable.
    """

    features: Features
    is_judged: bool = True

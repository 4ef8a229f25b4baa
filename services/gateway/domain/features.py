"""The features of texts in telemetry: numbers from which the text cannot be restored."""

import unicodedata
from collections import Counter
from dataclasses import dataclass

from contracts.facts.watch import Features
from decisions.scorers.refusals import is_refusal
from decisions.scorers.repetition import TAIL_CHARS, repetition_ratio

SAMPLED_CHARS = 20_000
"""Only the beginning and the end of longer texts are examined, so that the cost per request is bounded."""
_SCRIPT_CHARS = 1_000


@dataclass(frozen=True)
class Excerpts:
    """The parts of a prompt and an output that features are computed from, with the lengths of the whole texts."""

    prompt: str
    output: str
    prompt_chars: int
    output_chars: int

    @classmethod
    def of(cls, prompt: str, output: str) -> "Excerpts":
        """Return the excerpts of two texts."""
        is_long = len(output) > SAMPLED_CHARS
        sample = output[: SAMPLED_CHARS - TAIL_CHARS] + output[-TAIL_CHARS:] if is_long else output
        return cls(prompt[:_SCRIPT_CHARS], sample, len(prompt), len(output))


def describe(prompt: str, output: str) -> Features:
    """Return the features of a request: lengths of both texts; script, composition and refusal of the output."""
    return describe_excerpts(Excerpts.of(prompt, output))


def describe_excerpts(texts: Excerpts) -> Features:
    """Return the features of the texts that excerpts were taken from; the excerpt decides what is empty."""
    sample = texts.output
    return Features(
        prompt_chars=texts.prompt_chars,
        output_chars=texts.output_chars,
        script=dominant_script(sample or texts.prompt),
        non_letter_ratio=non_letter_ratio(sample),
        repetition_ratio=repetition_ratio(sample),
        refusal=is_refusal(sample),
        empty=not sample.strip(),
    )


def dominant_script(text: str) -> str:
    """Return the script of most letters, in lower case (`latin`, `cyrillic`, `cjk` …); `none` without letters."""
    counts = Counter(
        unicodedata.name(char, "UNKNOWN").split(" ", 1)[0].split("-", 1)[0].lower()
        for char in text[:_SCRIPT_CHARS]
        if char.isalpha()
    )
    return min(counts, key=lambda name: (-counts[name], name)) if counts else "none"


def non_letter_ratio(text: str) -> float:
    """Return the share of characters that are no letters, among those that are no white space; 0 for no text."""
    visible = [char for char in text if not char.isspace()]
    return sum(not char.isalpha() for char in visible) / len(visible) if visible else 0.0

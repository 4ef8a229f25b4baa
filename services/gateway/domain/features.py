"""The features of texts in telemetry: numbers from which the text cannot be restored."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from contracts.facts.watch import Features

SAMPLED_CHARS = 20_000
"""Only the beginning of longer texts is examined, so that the cost per request is bounded."""
_NGRAM = 3
_SCRIPT_CHARS = 1_000
_REFUSAL_PATTERN = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:'t|not|not)|won't|will not|must decline)"
    r"|as an ai(?: language model)?|i do(?:n't| not) feel comfortable)\b",
    re.IGNORECASE,
)
_REFUSAL_CHARS = 200
"""A refusal is at the beginning; the same phrases later usually mean something else."""


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
        return cls(prompt[:_SCRIPT_CHARS], output[:SAMPLED_CHARS], len(prompt), len(output))


def describe_excerpts(texts: Excerpts) -> Features:
    """Return the features of the texts that excerpts were taken from; the beginning decides what is empty."""
    lengths = {"prompt_chars": texts.prompt_chars, "output_chars": texts.output_chars}
    return describe(texts.prompt, texts.output).model_copy(update=lengths)


def describe(prompt: str, output: str) -> Features:
    """Return the features of a request: lengths of both texts; script, composition and refusal of the output."""
    sample = output[:SAMPLED_CHARS]
    return Features(
        prompt_chars=len(prompt),
        output_chars=len(output),
        script=dominant_script(sample or prompt),
        non_letter_ratio=non_letter_ratio(sample),
        repetition_ratio=repetition_ratio(sample),
        refusal=_REFUSAL_PATTERN.search(sample[:_REFUSAL_CHARS].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
        is not None,
        empty=not output.strip(),
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


def repetition_ratio(text: str) -> float:
    """Return the share of word triples that occurred before in the text: 0 without repetition, near 1 in a loop."""
    words = text.lower().split()
    triples = [tuple(words[start : start + _NGRAM]) for start in range(len(words) - _NGRAM + 1)]
    return 1.0 - len(set(triples)) / len(triples) if triples else 0.0

"""Which share of a text is in a language, judged part by part, so that an answer that changes language shows.

What recognises a language is passed in: it needs memory (`shared.serving.languages`).
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

LANGUAGES: Final = (
    "ar",
    "de",
    "en",
    "es",
    "fr",
    "hi",
    "it",
    "ja",
    "ko",
    "nl",
    "pl",
    "pt",
    "ru",
    "tr",
    "uk",
    "vi",
    "zh",
)
"""What a text is told apart into; each further one costs memory, and short texts their certainty."""
LEAST_LETTERS: Final = 20
"""Of fewer letters no language is told; a character of Chinese, Japanese or Korean counts as three."""
PART_LETTERS: Final = 60
"""Sentences are joined to parts of so many letters, by which a language is told surely."""
_NO_PROSE: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\S{1,100}@\S+|<[^<>\n]*>", re.DOTALL)
_SENTENCE: Final = re.compile(r"[^.!?。！？\n]+[.!?。！？\n]*")  # noqa: RUF001 - Chinese punctuation
_IDEOGRAPH: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

Recognise = Callable[[str], str | None]
"""Returns the language of a text, as ISO 639-1 names it; None if it cannot tell."""


def count_letters(text: str) -> int:
    """Return how many letters a text has; an ideograph or syllable of East Asia counts as three."""
    return sum(map(str.isalpha, text)) + 2 * len(_IDEOGRAPH.findall(text))


def prose_of(text: str) -> str:
    """Return a text without code, addresses and tags."""
    return _NO_PROSE.sub(" ", text)


def language_share(text: str, language: str, recognise: Recognise) -> float | None:
    """Return the share of the letters of a text that is in a language; None if it has too few to tell.

    Code, addresses and tags are no prose of any language.
    """
    inside = known = 0
    for part in _parts(prose_of(text)):
        recognised = recognise(part)
        letters = count_letters(part)
        known += letters if recognised is not None else 0
        inside += letters if recognised == language else 0
    return inside / known if known else None


def _parts(text: str) -> Iterator[str]:
    """Yield sentences, joined until they have enough letters; a short rest belongs to the part before it."""
    part, waiting = "", ""
    for sentence in _SENTENCE.findall(text):
        part += sentence
        if count_letters(part) >= PART_LETTERS:
            if waiting:
                yield waiting
            part, waiting = "", part
    if count_letters(part) >= PART_LETTERS // 2:
        if waiting:
            yield waiting
        waiting, part = part, ""
    if count_letters(waiting + part) >= LEAST_LETTERS:
        yield waiting + part

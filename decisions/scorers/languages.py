"""The share of a text in a language, judged by parts to detect changes of language.

The recogniser is an argument, because it needs memory (`shared.serving.languages`).
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
"""Recognised languages; more cost memory, and certainty for short texts."""
LEAST_LETTERS: Final = 20
"""Minimum letters to recognise a language; a Chinese, Japanese or Korean character counts as three."""
PART_LETTERS: Final = 60
"""Minimum letters of parts of joined sentences."""
_NO_PROSE: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\S{1,100}@\S+|<[^<>\n]*>", re.DOTALL)
_SENTENCE: Final = re.compile(r"[^.!?。！？\n]+[.!?。！？\n]*")  # noqa: RUF001 - Chinese punctuation
_IDEOGRAPH: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

Recognise = Callable[[str], str | None]
"""Returns the ISO 639-1 code of a text's language; None if unknown."""


def count_letters(text: str) -> int:
    """Return the number of letters of a text; a Chinese, Japanese or Korean character counts as three."""
    return sum(map(str.isalpha, text)) + 2 * len(_IDEOGRAPH.findall(text))


def prose_of(text: str) -> str:
    """Return a text without code, addresses and tags."""
    return _NO_PROSE.sub(" ", text)


def language_share(text: str, language: str, recognise: Recognise) -> float | None:
    """Return the share of a text's letters in a language, without code, addresses and tags; None with too few."""
    inside = known = 0
    for part in _parts(prose_of(text)):
        recognised = recognise(part)
        letters = count_letters(part)
        known += letters if recognised is not None else 0
        inside += letters if recognised == language else 0
    return inside / known if known else None


def _parts(text: str) -> Iterator[str]:
    """Yield parts of joined sentences; a short rest is added to the last part."""
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

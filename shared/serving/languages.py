"""Recognises languages with lingua: 30 MB of memory, 0.2 s to load, 0.1 ms for a text of 100 characters.

Measured on texts of GTK and the C library in the 17 languages, in the mode for longer texts with a greater margin:
0.4 % of 816 texts of 60 letters or more were misjudged (0.5 % with all data, 400 MB), 1.5 % of 1,954 texts of 40 to 59
letters (0.6 %).
"""

import threading
from functools import lru_cache
from typing import Any, Final

from decisions.scorers.languages import LANGUAGES

LEAST_MARGIN: Final = 0.5
"""Minimum relative distance to the second language, from 0 to 1."""

_BUILDING: Final = threading.Lock()
"""Rows are scored in threads; the detector is built once."""


@lru_cache(maxsize=1)
def _detector() -> Any:
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    codes = [getattr(IsoCode639_1, name.upper()) for name in LANGUAGES]
    builder = LanguageDetectorBuilder.from_iso_codes_639_1(*codes).with_minimum_relative_distance(LEAST_MARGIN)
    return builder.with_low_accuracy_mode().with_preloaded_language_models().build()


def recognise(text: str) -> str | None:
    """Return the language of a text (ISO 639-1), or None if it is uncertain."""
    with _BUILDING:
        detector = _detector()
    language = detector.detect_language_of(text)
    return None if language is None else str(language.iso_code_639_1.name).lower()

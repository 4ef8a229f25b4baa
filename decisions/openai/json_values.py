"""Limit of the number of values in a JSON text, counted before parsing. Standard library only (backends use it)."""

import re
from typing import Final

MAX_VALUES: Final = 65_536
"""Maximum values of a body (about 1 µs each to parse); an empty list or object counts as two."""
MAX_OTHER_VALUES: Final = 16_384
"""Maximum values besides numbers in lists; 90 tools of 2 kB have about 9,000."""
_STRUCTURE: Final = b",[{"
_NUMERIC: Final = b"+-.0123456789Ee \t\n\r"
_COMMAS: Final = re.compile(rb",{2,}")
_PORTION_BYTES: Final = 2**16


def find_excess_values(raw: bytes) -> str | None:
    """Return a sentence on why a JSON text has too many values; None if it has not.

    Every value is the first of the body, follows a comma, or is the first in its list or object. So commas and opening
    brackets outside strings are counted, in portions, up to the limit.
    """
    if _count_structure(raw) < MAX_OTHER_VALUES:  # with those in strings; most bodies are below the limit
        return None
    count, others, in_string, rest = 1, 1, 0, b""
    for start in range(0, len(raw), _PORTION_BYTES):
        portion = rest + raw[start : start + _PORTION_BYTES]
        portion = portion.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        rest = b"\\" if portion.endswith(b"\\") else b""  # it escapes the first byte of the next portion
        parts = portion.split(b'"')
        outside = b'"'.join(parts[in_string::2])
        count += _count_structure(outside)
        others += _count_structure(_COMMAS.sub(b",", outside.translate(None, _NUMERIC)))
        if count > MAX_VALUES:
            return f"The body has more than {MAX_VALUES} values; send less in one request."
        if others > MAX_OTHER_VALUES:
            return (
                f"The body has more than {MAX_OTHER_VALUES} values besides numbers in lists; send less in one request."
            )
        in_string ^= (len(parts) - 1) % 2
    return None


def _count_structure(raw: bytes) -> int:
    return len(raw) - len(raw.translate(None, _STRUCTURE))

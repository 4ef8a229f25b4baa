"""How many values a JSON text has, counted before it is parsed.

Standard library only: the backends count, too, in the engine's environment.
"""

from typing import Final

MAX_VALUES: Final = 65_536
"""Most values of a body; an empty list or object counts as two. It limits how long one body delays everything else."""
_STRUCTURE: Final = b",[{"
_PORTION_BYTES: Final = 2**16


def has_too_many_values(raw: bytes) -> bool:
    """Return whether the commas and opening brackets outside strings show too many values.

    Every value is the first of the body, follows a comma, or is the first in its list or object. The count is correct
    up to the first syntax error, where a parser ends. It counts in portions, and stops above the limit.
    """
    if _count_structure(raw) < MAX_VALUES:  # this count includes strings; most bodies are below the limit even so
        return False
    count, in_string, rest = 1, 0, b""
    for start in range(0, len(raw), _PORTION_BYTES):
        portion = rest + raw[start : start + _PORTION_BYTES]
        portion = portion.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        rest = b"\\" if portion.endswith(b"\\") else b""  # it escapes the first byte of the next portion
        parts = portion.split(b'"')
        count += _count_structure(b"".join(parts[in_string::2]))
        if count > MAX_VALUES:
            return True
        in_string ^= (len(parts) - 1) % 2
    return False


def _count_structure(raw: bytes) -> int:
    return len(raw) - len(raw.translate(None, _STRUCTURE))

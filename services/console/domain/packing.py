"""Bodies of events in the index, compressed: they are most of it. Pure."""

import zlib
from typing import Final

LEVEL: Final = 6
LARGEST: Final = 16 * 1024 * 1024
"""A body is a message of the bus, which is smaller."""


def pack(text: str) -> bytes:
    """Return a text, compressed; the same text gives the same bytes."""
    return zlib.compress(text.encode(), LEVEL)


def unpack(data: bytes) -> str:
    """Return the text that `pack` packed."""
    return zlib.decompressobj().decompress(data, LARGEST).decode()

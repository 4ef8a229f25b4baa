"""Compression of event bodies, the largest part of the index. Pure."""

import zlib
from typing import Final

LEVEL: Final = 6
LARGEST: Final = 16 * 1024 * 1024
"""Maximum bytes of an unpacked body; messages of the bus are smaller."""


def pack(text: str) -> bytes:
    """Compress a text; equal texts give equal bytes."""
    return zlib.compress(text.encode(), LEVEL)


def unpack(data: bytes) -> str:
    """Return the text that `pack` compressed."""
    return zlib.decompressobj().decompress(data, LARGEST).decode()

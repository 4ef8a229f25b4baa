"""Sampling by hash: the same key always gets the same number."""

import hashlib


def fraction(key: str) -> float:
    """Return a number 0 ≤ x < 1 for a key, evenly distributed."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48

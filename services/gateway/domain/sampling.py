"""Sampling by hash, so that all gateways decide alike."""

import hashlib


def fraction(key: str) -> float:
    """Return a number 0 ≤ x < 1 for a key, evenly distributed."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48

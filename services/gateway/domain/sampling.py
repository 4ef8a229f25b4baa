"""Draws that come out alike on every gateway: a hash in the place of chance."""

import hashlib


def fraction(key: str) -> float:
    """Map a key evenly to 0 ≤ x < 1."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48

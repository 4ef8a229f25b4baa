"""Decides whether a caller may take more of a capacity that all callers share."""

from typing import Final

RESERVED: Final = 8
"""One part in so many of a capacity is for callers that have little of it in use."""
LITTLE: Final = 64
"""A caller that has less than one part in so many in use has little."""


def may_take(own: int, used: int, added: int, limit: int) -> bool:
    """Return whether a caller may take `added` more, as far as the reserve for callers that have little goes.

    So up to seven callers cannot take all of a capacity of 64 or more, whatever they hold and for however long. A
    capacity below eight has no reserve.

    Args:
        own: What the caller has in use.
        used: What all have in use.
        added: What it asks for now.
        limit: What there is in all; nothing here refuses what alone is more than that.
    """
    return used + added <= limit - limit // RESERVED or own < max(1, limit // LITTLE)

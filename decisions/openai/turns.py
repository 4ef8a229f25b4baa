"""Whose turn it is: callers in turns, however much one of them asks for. Pure.

Standard library only: the backends use it, too, in the engine's environment.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """A fair queue by caller: an item waits for at most one turn of each other caller."""

    def __init__(self) -> None:
        """Begin with nothing that waits."""
        self._waiting: dict[str, deque[T]] = {}  # who had its turn longest ago first

    def add(self, holder: str, item: T) -> None:
        """Let an item wait for a turn of its caller, after those that it asked for before."""
        self._waiting.setdefault(holder, deque()).append(item)

    def count(self, holder: str) -> int:
        """Return how many items of a caller wait."""
        return len(self._waiting.get(holder, ()))

    def take(self) -> T | None:
        """Remove and return the next item: the first of the caller whose turn was longest ago. None if none waits."""
        holder = next(iter(self._waiting), None)
        if holder is None:
            return None
        items = self._waiting.pop(holder)
        item = items.popleft()
        if items:
            self._waiting[holder] = items
        return item

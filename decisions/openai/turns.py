"""A fair queue by caller. Pure; standard library only (backends use it)."""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """A round-robin queue: the first item of a caller waits for at most one turn of each other caller."""

    def __init__(self) -> None:
        """Create an empty queue."""
        self._waiting: dict[str, deque[T]] = {}  # the caller with the least recent turn first

    def add(self, holder: str, item: T) -> None:
        """Append an item to its caller's queue."""
        self._waiting.setdefault(holder, deque()).append(item)

    def count(self, holder: str) -> int:
        """Return the number of a caller's waiting items."""
        return len(self._waiting.get(holder, ()))

    def take(self) -> T | None:
        """Remove and return the first item of the caller with the least recent turn; None if the queue is empty."""
        holder = next(iter(self._waiting), None)
        if holder is None:
            return None
        items = self._waiting.pop(holder)
        item = items.popleft()
        if items:
            self._waiting[holder] = items
        return item

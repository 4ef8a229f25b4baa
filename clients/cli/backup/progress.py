"""Progress of a backup or a restore on standard error: what is copied, and how much of it."""

import sys
import threading
from collections.abc import Callable

EVERY_S = 2.0
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size_text(size: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"


class Progress:
    """Prints a line when a step begins, and while it lasts every two seconds. Called from several threads."""

    def __init__(self, now_s: Callable[[], float], *, shown: bool = True) -> None:
        """Take a clock that counts seconds, and whether anything is printed."""
        self._now_s, self._shown, self._lock = now_s, shown, threading.Lock()
        self._name, self._done, self._items = "", 0, 0
        self._total: int | None = None
        self._all_items: int | None = None
        self._told_at = self._began = now_s()

    def step(self, name: str, *, total: int | None = None, items: int | None = None) -> None:
        """Begin a step of so many bytes and items, where that is known."""
        with self._lock:
            self._name, self._total, self._all_items, self._done, self._items = name, total, items, 0, 0
            self._began = self._now_s()
            self._print(self._began)

    def add(self, size: int) -> None:
        """Count bytes that are done."""
        self._count(size, 0)

    def add_item(self, size: int) -> None:
        """Count an item that is done, of so many bytes."""
        self._count(size, 1)

    def _count(self, size: int, items: int) -> None:
        with self._lock:
            self._done += size
            self._items += items
            now = self._now_s()
            if now - self._told_at >= EVERY_S:
                self._print(now)

    def _print(self, now: float) -> None:
        self._told_at = now
        if not self._shown:
            return
        parts = [size_text(self._done) + (f" of {size_text(self._total)}" if self._total is not None else "")]
        if self._all_items is not None:
            parts.insert(0, f"{self._items} of {self._all_items} objects")
        if self._done and now > self._began:
            parts.append(f"{size_text(self._done / (now - self._began))}/s")
        line = f"{self._name}: {', '.join(parts)}" if self._done or self._total is not None else self._name
        print(line, file=sys.stderr, flush=True)

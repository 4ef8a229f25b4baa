"""Objects that the store fails at while it reads others: how often in a row, and for how long."""

import time
from collections.abc import Callable

from shared.errors import Transient


class UnreadableObjects:
    """The objects of a store that could not be read the last time, as this process saw them."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take the clock."""
        self._monotonic = monotonic
        self._failing: dict[str, tuple[int, float]] = {}

    def note_failure(self, key: str) -> Transient:
        """Count a failed read; return `object_unreadable`, with the reads that failed in a row and their seconds."""
        now_s = self._monotonic()
        tries, since_s = self._failing.get(key, (0, now_s))
        self._failing[key] = (tries + 1, since_s)
        reason = f"The object store does not read {key}, and reads other objects: its bytes may be damaged."
        failing_s = round(now_s - since_s, 1)
        return Transient("object_unreadable", reason, object=key, tries=tries + 1, failing_s=failing_s)

    def note_read(self, key: str) -> None:
        """Forget the failures of an object that was read."""
        self._failing.pop(key, None)

"""Waiting times of orders, by the monotonic clock of this process."""

from collections.abc import Collection, Mapping

from shared.runtime.clock import Clock


class Waits:
    """Measures how long orders have waited, since this process, as the leader, first saw them.

    Times in the record are not used: other processes' wall clocks may be wrong. After a restart, waits start again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def begin(self, order_id: str) -> None:
        """Restart the wait of an order now."""
        self._since[order_id] = self._clock.monotonic()

    def note(self, order_ids: Collection[str]) -> Mapping[str, float]:
        """Return the seconds since each order was first seen; drop all other orders."""
        now = self._clock.monotonic()
        self._since = {order_id: self._since.get(order_id, now) for order_id in order_ids}
        return {order_id: now - since for order_id, since in self._since.items()}

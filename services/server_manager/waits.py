"""Waiting times of orders, by the monotonic clock of this process."""

from collections.abc import Collection, Mapping

from shared.runtime.clock import Clock


class Waits:
    """Counts from when this process, as the leader, first saw an order.

    The times in the record are of other processes' wall clocks, which may be wrong and may jump. A process that was
    started again counts anew.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def begin(self, order_id: str) -> None:
        """Restart the wait of an order now."""
        self._since[order_id] = self._clock.monotonic()

    def note(self, order_ids: Collection[str]) -> Mapping[str, float]:
        """Return the seconds since each of these orders was first seen; forget all other orders."""
        now = self._clock.monotonic()
        self._since = {order_id: self._since.get(order_id, now) for order_id in order_ids}
        return {order_id: now - since for order_id, since in self._since.items()}

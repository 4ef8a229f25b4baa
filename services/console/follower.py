"""Follows the event log and writes its rows into the index, until cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from contracts.services import EVENTS, INBOX, ORDERS
from services.console.domain.apply import apply, apply_unreadable
from services.console.domain.logged import Logged, LoggedEvent, Unreadable
from services.console.domain.rows import Row
from services.console.domain.watch_rows import Ms
from shared.runtime.tasks import end_tasks

STREAMS: Final = (INBOX, ORDERS, EVENTS)
WAIT_S: Final = 5.0
MOST_BEHIND: Final = 100
"""Missing events below which the index is current. Above, it is being built and may show past incidents."""
_AGAIN_S: Final = 0.5


class Log(Protocol):
    """The streams of the event log."""

    async def identity(self, stream: str) -> tuple[str, int, int]:
        """Return a stream's identity (new if it was recreated), and its first and last sequence number."""

    async def read(self, stream: str, start: int, wait_s: float) -> tuple[int, Sequence[Logged]]:
        """Return the next sequence number, and the entries from `start` on; none after `wait_s` seconds."""


class Rows(Protocol):
    """The index, as the follower writes it."""

    def clear(self) -> None:
        """Remove all rows and positions."""

    def positions(self) -> dict[str, tuple[int, str]]:
        """Return the last indexed sequence number and the identity of each stream."""

    def write(self, stream: str, sequence: int, identity: str, rows: Sequence[tuple[int, Row]]) -> None:
        """Write rows with their events' sequence numbers and the stream's position, in one transaction."""


@dataclass
class Progress:
    """The index's position: by stream, the last sequence number indexed, and the first and last in the log."""

    indexed: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    @property
    def behind(self) -> int:
        """Return the number of log messages not yet indexed."""
        return sum(
            max(0, last - max(self.indexed.get(stream, 0), self.first.get(stream, 1) - 1))
            for stream, last in self.last.items()
        )

    @property
    def is_current(self) -> bool:
        """Return whether the index lacks fewer than `MOST_BEHIND` messages."""
        return self.behind < MOST_BEHIND

    @property
    def ratio(self) -> float:
        """Return the indexed share of the log."""
        total = sum(self.last.values())
        return 1.0 if total == 0 else min(1.0, 1.0 - self.behind / total)


class Follower:
    """Writes the log's events into the index.

    Args:
        log: The streams.
        rows: The index.
        percentile: Returns a percentile of a histogram.
        publish: Called with indexed events.
        announce: Called with hidden topics when the index becomes current.
    """

    def __init__(
        self,
        log: Log,
        rows: Rows,
        percentile: Ms,
        publish: Callable[[Sequence[LoggedEvent]], Awaitable[None]],
        announce: Callable[[set[str]], None],
    ) -> None:
        self.progress = Progress()
        self._log, self._rows, self._percentile, self._publish = log, rows, percentile, publish
        self._announce, self._was_current = announce, True

    async def run(self) -> None:
        """Follow all streams until cancelled; restart after a stream was recreated."""
        while True:
            known = await self._begin()
            followers = [asyncio.create_task(self._follow(stream, identity)) for stream, identity in known.items()]
            try:  # a task group cancels each task once, and a task may lose that cancellation
                await asyncio.wait(followers, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await end_tasks(followers, again_s=_AGAIN_S)
            for task in followers:
                if not task.cancelled():
                    task.result()

    async def _begin(self) -> dict[str, str]:
        """Return each stream's identity; clear the index if it belongs to other streams."""
        identities: dict[str, str] = {}
        for stream in STREAMS:
            identities[stream] = await self._ask(stream)
        positions = self._rows.positions()
        if any(identity != identities[stream] for stream, (_, identity) in positions.items()):
            structlog.get_logger().warning("a stream was made again: the index is built from the log anew")
            self._rows.clear()
            positions = {}
        self.progress.indexed = {stream: positions.get(stream, (0, ""))[0] for stream in STREAMS}
        self._announce_current()
        return identities

    async def _ask(self, stream: str) -> str:
        """Return a stream's identity; note its first and last sequence number."""
        identity, self.progress.first[stream], self.progress.last[stream] = await self._log.identity(stream)
        return identity

    def _announce_current(self) -> None:
        is_current = self.progress.is_current
        if is_current and not self._was_current:
            self._announce({"incidents"})
        self._was_current = is_current

    async def _follow(self, stream: str, identity: str) -> None:
        """Index a stream's events as they arrive; return when the stream was recreated."""
        while True:
            start = self.progress.indexed[stream] + 1
            after, events = await self._log.read(stream, start, WAIT_S)
            if after > start:
                await self._take(stream, identity, after - 1, events)
                continue
            now = await self._ask(stream)
            if now != identity or self.progress.last[stream] < self.progress.indexed[stream]:
                return
            self._announce_current()

    async def _take(self, stream: str, identity: str, sequence: int, events: Sequence[Logged]) -> None:
        rows = await asyncio.to_thread(self._rows_of, events)
        await _finish(asyncio.to_thread(self._rows.write, stream, sequence, identity, rows))
        self.progress.indexed[stream] = sequence
        self.progress.last[stream] = max(sequence, self.progress.last[stream])
        await self._publish([logged for logged in events if isinstance(logged, LoggedEvent)])
        self._announce_current()

    def _rows_of(self, events: Sequence[Logged]) -> list[tuple[int, Row]]:
        return [(logged.sequence, row) for logged in events for row in rows_of(logged, self._percentile)]


def rows_of(logged: Logged, percentile: Ms) -> Sequence[Row]:
    """Return the rows of a log entry."""
    if isinstance(logged, Unreadable):
        return apply_unreadable(logged)
    return apply(logged.stream, logged.sequence, logged.event, percentile)


async def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Wait for a thread's work to end, even if the caller is cancelled.

    A thread left running could write rows after `clear` emptied the index.
    """
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    task.result()

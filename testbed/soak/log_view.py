"""The event log of a stack as it grows, read while the bus is killed and comes back."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import nats.errors

from clients.cli.connection import connected, find_stack
from clients.cli.events.event_log import EventFilter, LoggedEvent, merge, read_history
from clients.cli.output import CommandError
from contracts.facts import FACTS, AlertRaised, AlertResolved, AlertUpdated, WindowSummarised
from contracts.services import EVENTS, stream_of
from shared.errors import SlipwayError
from shared.runtime.clock import SystemClock
from testbed.soak.threads import Threads
from testbed.stack import Stack

OF_RELEASES = EventFilter(
    tuple(
        fact.TYPE.removeprefix("slipway.").rpartition(".")[0]
        for fact in FACTS.values()
        if stream_of(fact) == EVENTS and fact not in (AlertRaised, AlertResolved, AlertUpdated, WindowSummarised)
    ),
    with_orders=True,
)
EVERY_S = 2.5
OVERLAP = timedelta(seconds=60)
AWAY = (nats.errors.Error, OSError, TimeoutError, SlipwayError, CommandError, asyncio.CancelledError)
"""What the client raises while the bus is away; the next look reads the same again."""


class LogView:
    """The events of releases, announcements and orders so far."""

    def __init__(self, stack: Stack, threads: Threads) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self._thread = threads.make("the reader of the event log", self._run)
        self.events: Sequence[LoggedEvent] = ()
        self.failures = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)

    def read_whole(self) -> Sequence[LoggedEvent]:
        """Read everything again, and return it."""
        self.events = self._read(None)
        return self.events

    def wait_for(self, happened: Callable[[Sequence[LoggedEvent]], bool], timeout_s: float) -> bool:
        """Wait until something is in the log; return whether it is before the time is over."""
        deadline = time.monotonic() + timeout_s
        while not happened(self.events):
            if time.monotonic() > deadline or self._stop.wait(0.5):
                return False
        return True

    def _run(self) -> None:
        complete_until = None  # what was stored while the bus was away is read, however long that was
        while not self._stop.wait(EVERY_S):
            began = SystemClock().now()
            try:
                self.events = self._read(complete_until - OVERLAP if complete_until is not None else None)
                complete_until = began
            except AWAY:
                self.failures += 1

    def _read(self, since) -> Sequence[LoggedEvent]:
        where = replace(OF_RELEASES, since=since)

        async def read() -> list[LoggedEvent]:
            async with connected(find_stack(self._stack.state)) as client:
                return await read_history(client.jetstream(timeout=10), None, where)

        return merge(self.events if since is not None else (), asyncio.run(read()))

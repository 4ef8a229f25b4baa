"""Reads the recorded windows, routes and alerts of one model from the log, for a replay."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from contracts.envelope import Event, nats_subject
from contracts.event_archive import ArchivedMessage, EventGroup
from contracts.services import EVENTS
from decisions.event_archive import body_of
from services.console.domain.logged import parse_message
from shared.errors import Permanent, Transient

Archived = Callable[[str, Sequence[EventGroup], datetime | None], Awaitable[Sequence[ArchivedMessage]]]
COURSE: Final = ("deployment.changed", "release.opened", "alert.raised")
WINDOWS: Final = "window.summarised"
BATCH: Final = 200
MOST: Final = 50_000
"""Events of one replay; a day of a model with three targets has about 5,000."""
WAIT_S: Final = 3.0
READ_S: Final = 20.0
"""How long a replay reads the log, all of its parts together: each answer alone may come in time, for ever."""


class RecordedEvents:
    """The log of the bus.

    Args:
        js: Returns the bus, once it is connected.
        within_s: How long reading takes at most.
        archived: Returns what was removed from the log of a model; None if the archive is not read.
    """

    def __init__(
        self, js: Callable[[], JetStreamContext], within_s: float = READ_S, archived: Archived | None = None
    ) -> None:
        self._js, self._within_s, self._archived = js, within_s, archived

    async def read(self, model: str, since: datetime) -> list[Event[Any]]:
        """Return the windows of a model since a time, and all of its routes, policies and alerts, in their order.

        Raises:
            Permanent: There are more than 50,000.
            Transient: The bus does not answer, or not within the time.
        """
        reading = asyncio.timeout(self._within_s)
        try:
            async with reading:
                return await self._read_all(model, since)
        except TimeoutError as error:
            within = f" within {self._within_s:g} s" if reading.expired() else ""
            raise Transient("bus_unavailable", f"The log cannot be read{within} ({error!r}). Try again.") from error
        except nats.errors.Error as error:
            raise Transient("bus_unavailable", f"The log cannot be read ({error!r}). Try again.") from error

    async def _read_all(self, model: str, since: datetime) -> list[Event[Any]]:
        known = [] if self._archived is None else await self._removed(self._archived, model, since)
        for name, start in [(WINDOWS, since), *((name, None) for name in COURSE)]:
            subject = nats_subject(f"slipway.{name}.v1", model, "*", "production")
            known += await self._read(subject, start)
            if len(known) > MOST:
                raise Permanent("too_large", f"{model} has more than {MOST} events since {since:%Y-%m-%d %H:%M}.")
        return [event for _, event in sorted(dict(known).items())]

    @staticmethod
    async def _removed(archived: Archived, model: str, since: datetime) -> list[tuple[int, Event[Any]]]:
        """Return the same of what was removed from the log."""
        messages = [*await archived(model, ("windows",), since), *await archived(model, ("alerts", "releases"), None)]
        types = {f"slipway.{name}.v1" for name in (WINDOWS, *COURSE)}
        events = ((each.sequence, parse_message(each.subject, body_of(each))) for each in messages)
        return [
            (sequence, event)
            for sequence, event in events
            if event is not None and event.type in types and event.environment == "production"
        ]

    async def _read(self, subject: str, since: datetime | None) -> list[tuple[int, Event[Any]]]:
        start: dict[str, Any] = {"deliver_policy": DeliverPolicy.ALL}
        if since is not None:
            start = {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": since.isoformat()}
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=30.0, mem_storage=True, **start)
        subscription = await self._js().pull_subscribe(subject, stream=EVENTS, config=config)
        events: list[tuple[int, Event[Any]]] = []
        try:
            pending = (await subscription.consumer_info()).num_pending or 0
            while pending > 0 and len(events) <= MOST:
                messages = await subscription.fetch(min(pending, BATCH), timeout=WAIT_S)
                for message in messages:
                    event = parse_message(message.subject, message.data)
                    if event is not None:
                        events.append((message.metadata.sequence.stream, event))
                pending -= len(messages)
        finally:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await subscription.unsubscribe()
        return events

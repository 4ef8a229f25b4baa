"""Reads the recorded windows, routes and alerts of one model from the log, for a replay."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from contracts.envelope import Event, nats_subject
from contracts.event_archive import ArchivedMessage, EventGroup
from contracts.facts import DeploymentChanged, ReleaseOpened, WindowSummarised
from contracts.services import EVENTS
from decisions.event_archive import body_of, group_of
from services.console.domain.logged import parse_message
from shared.errors import Permanent, Transient

Numbered = tuple[int, Event[Any]]
"""An event and its number in the log."""
COURSE: Final = ("deployment.changed", "release.opened", "alert.raised")
WINDOWS: Final = "window.summarised"
BATCH: Final = 200
MOST: Final = 50_000
"""Events of one replay; a day of a model with three targets has about 5,000."""
WAIT_S: Final = 3.0
READ_S: Final = 20.0
"""How long a replay reads the log, all of its parts together: each answer alone may come in time, for ever."""


ROUTE_BEFORE: Final = timedelta(hours=1)
"""How long before a replay its first route is of at least: services have clocks of their own."""
ALERTS_BEFORE: Final = timedelta(days=7)
"""How old an alert of the archive may be that is still open when a replay begins."""


class Archived(Protocol):
    """Returns what was removed from the log of a model."""

    def __call__(
        self,
        model: str,
        groups: Sequence[EventGroup],
        *,
        since: datetime | None = None,
        last: Callable[[ArchivedMessage], bool] | None = None,
        most: int | None = None,
    ) -> Awaitable[Sequence[ArchivedMessage]]:
        """Return the messages of groups, in the order of the log; see `shared.provenance.event_archive.read_model`."""


class _Beginning:
    """What a replay needs from before it: a route, the policy of each version in its windows, and alerts.

    Versions are numbered in the order in which they were opened.
    """

    def __init__(self, since: datetime, events: Iterable[Event[Any]]) -> None:
        """Take when the replay begins, and the events that were read."""
        self._since = since
        windows = [event.data.target.version for event in events if isinstance(event.data, WindowSummarised)]
        self._version = min(windows, default=None)
        self._route, self._policy = False, self._version is None
        for event in events:
            self._add(event)

    @property
    def is_known(self) -> bool:
        """Whether the route and the policies were all read."""
        return self._route and self._policy

    def is_reached(self, message: ArchivedMessage) -> bool:
        """Return whether nothing before a message of its group is needed; of each segment all are asked about."""
        if group_of(message.subject) == "alerts":
            return message.at < self._since - ALERTS_BEFORE
        event = parse_message(message.subject, body_of(message))
        if event is not None and event.environment == "production":
            self._add(event)
        return self.is_known

    def _add(self, event: Event[Any]) -> None:
        if isinstance(event.data, DeploymentChanged):
            self._route |= event.data.at < self._since - ROUTE_BEFORE
        elif isinstance(event.data, ReleaseOpened) and self._version is not None:
            self._policy |= event.data.version <= self._version


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
        """Return the windows of a model since a time, and its routes, policies and alerts, in their order.

        Those from before that time are all that the log has, and of the archive those that a replay needs.

        Raises:
            Permanent: There are more than 50,000.
            Transient: The bus or the object store does not answer, or not within the time.
        """
        reading, is_logged = asyncio.timeout(self._within_s), False
        try:
            async with reading:
                known = await self._logged(model, since)
                is_logged = True
                if self._archived is not None:  # after the log: what is trimmed meanwhile is in one of both
                    known += await self._removed(self._archived, model, since, known)
        except TimeoutError as error:
            within = f" within {self._within_s:g} s" if reading.expired() else ""
            if is_logged and reading.expired():
                what = f"The archive of the event log in the object store cannot be read{within}."
                raise Transient("store_unavailable", f"{what} Choose fewer hours, or try again.") from error
            raise Transient("bus_unavailable", f"The log cannot be read{within} ({error!r}). Try again.") from error
        except nats.errors.Error as error:
            raise Transient("bus_unavailable", f"The log cannot be read ({error!r}). Try again.") from error
        return [event for _, event in sorted(dict(known).items())]

    async def _logged(self, model: str, since: datetime) -> list[Numbered]:
        known: list[Numbered] = []
        for name, start in [(WINDOWS, since), *((name, None) for name in COURSE)]:
            subject = nats_subject(f"slipway.{name}.v1", model, "*", "production")
            known += await self._read(subject, start)
            if len(known) > MOST:
                raise Permanent("too_large", f"{model} has more than {MOST} events since {since:%Y-%m-%d %H:%M}.")
        return known

    @staticmethod
    async def _removed(archived: Archived, model: str, since: datetime, logged: Sequence[Numbered]) -> list[Numbered]:
        """Return what was removed from the log: windows since a time, then what is needed from before."""
        windows = _events(await archived(model, ("windows",), since=since, most=MOST))
        beginning = _Beginning(since, [event for _, event in (*windows, *logged)])
        groups: tuple[EventGroup, ...] = ("alerts",) if beginning.is_known else ("alerts", "releases")
        return windows + _events(await archived(model, groups, last=beginning.is_reached, most=MOST))

    async def _read(self, subject: str, since: datetime | None) -> list[Numbered]:
        start: dict[str, Any] = {"deliver_policy": DeliverPolicy.ALL}
        if since is not None:
            start = {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": since.isoformat()}
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=30.0, mem_storage=True, **start)
        subscription = await self._js().pull_subscribe(subject, stream=EVENTS, config=config)
        events: list[Numbered] = []
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


def _events(messages: Iterable[ArchivedMessage]) -> list[Numbered]:
    """Return the events in archived messages that a replay reads."""
    types = {f"slipway.{name}.v1" for name in (WINDOWS, *COURSE)}
    events = ((message.sequence, parse_message(message.subject, body_of(message))) for message in messages)
    return [
        (sequence, event)
        for sequence, event in events
        if event is not None and event.type in types and event.environment == "production"
    ]

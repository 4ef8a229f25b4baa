"""Read the events that `slipway events` prints: selected by type, time and model."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final

from nats.js import JetStreamContext

from clients.cli.errors import CommandError, Exit
from clients.cli.events.event_log import EventFilter, LoggedEvent, read_history
from clients.cli.releases.names import nearest
from contracts.envelope import Event, short_type
from contracts.facts import FACTS
from contracts.services import EVENTS, FROM_OUTSIDE, stream_of
from contracts.vocabulary import Environment
from decisions.rollback.orders import CLOCK_SKEW

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES = {short_type(type_): fact for type_, fact in FACTS.items() if stream_of(fact) == EVENTS}
"""Events of services, by their names in a filter."""


def types_matching(patterns: Sequence[str]) -> frozenset[str]:
    """Return the types of events that match patterns such as `rollback.started` or `alert.*`; all without a pattern.

    Raises:
        CommandError: A pattern matches no type.
    """
    return frozenset(type_ for pattern in patterns or ("*",) for type_ in _matching(pattern))


def _matching(pattern: str) -> list[str]:
    matching = [type_ for type_ in FACTS if fnmatchcase(type_, pattern) or fnmatchcase(short_type(type_), pattern)]
    if not matching:
        near = nearest(pattern, map(short_type, FACTS))
        hint = f"{near} See" if near else "write one, such as rollback.started or alert.*; see"
        raise CommandError(f"no event has the type {pattern!r}; {hint} docs/reference/events.md", Exit.USAGE)
    return matching


@dataclass(frozen=True)
class Selection:
    """The events to print; `limit` is the maximum number of the last events."""

    types: frozenset[str]
    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    limit: int | None = None
    environment: Environment | None = None

    def filter(self) -> EventFilter | None:
        """Return the filter of the log for these types, of all environments; None for the whole log."""
        names = [name for name, fact in _NAMES.items() if fact.TYPE in self.types]
        if len(names) == len(_NAMES):
            return None
        with_orders = any(FACTS[type_] in FROM_OUTSIDE for type_ in self.types)
        return EventFilter(tuple(names), environment=None, with_orders=with_orders)

    def includes(self, event: Event[Any]) -> bool:
        """Return whether to print an event."""
        after = self.since is None or event.time >= self.since
        if self.environment not in (None, event.environment):
            return False
        return after and event.type in self.types and (self.until is None or event.time < self.until)


async def read_selected(
    js: JetStreamContext, selection: Selection, where: EventFilter | None = None
) -> list[LoggedEvent]:
    """Return the selected events in the order of time; `where` replaces the filter of the log."""
    # an event is stored after its own time, but for the clocks of two machines
    since = None if selection.since is None else max(selection.since, _EARLIEST + CLOCK_SKEW) - CLOCK_SKEW
    history = await read_history(js, selection.model, selection.filter() if where is None else where, since)
    kept = [logged for logged in history if selection.includes(logged.event)]
    return kept if selection.limit is None else kept[-selection.limit :]

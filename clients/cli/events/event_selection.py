"""Read the events that `slipway events` prints: selected by type, time and model."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from nats.js import JetStreamContext

from clients.cli.events.event_log import EventFilter, LoggedEvent, read_history
from contracts.envelope import Event
from contracts.facts import FACTS
from contracts.services import EVENTS, FROM_OUTSIDE, stream_of
from contracts.vocabulary import Environment
from decisions.rollback.orders import CLOCK_SKEW

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES = {
    type_.removeprefix("slipway.").rpartition(".")[0]: fact
    for type_, fact in FACTS.items()
    if stream_of(fact) == EVENTS
}
"""Events of services, by their names in a filter."""


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

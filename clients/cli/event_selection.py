"""Read the events that `slipway events` prints: selected by type, time and model, of the log and its archive."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from nats.js import JetStreamContext

from clients.cli.archived_events import GROUPS, find_archive, selected
from clients.cli.connection import StackAddress
from clients.cli.event_log import EventFilter, LoggedEvent, log_begin, merge, read_history
from clients.cli.output import warn
from clients.cli.reading import own_models
from contracts.envelope import Event
from contracts.event_archive import EventGroup
from contracts.facts import FACTS
from contracts.services import EVENTS, FROM_OUTSIDE, stream_of
from contracts.vocabulary import Environment
from decisions.event_archive import group_of
from decisions.orders import CLOCK_SKEW

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SPARE: Final = 1000
"""With a limit, so many more events than twice the limit are in memory at most, beside those of the log."""
_NAMES = {
    type_.removeprefix("slipway.").rpartition(".")[0]: fact
    for type_, fact in FACTS.items()
    if stream_of(fact) == EVENTS
}
"""Events of services, by their names in a filter."""


@dataclass(frozen=True)
class Selection:
    """Which events to print: types, times, one model or all, the last so many of them, one environment or both."""

    types: frozenset[str]
    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    limit: int | None = None
    environment: Environment | None = None

    def filter(self) -> EventFilter | None:
        """Return what is read of the log for these types, of all environments; None for all of it."""
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

    def groups(self) -> list[EventGroup]:
        """Return the groups of the archive that have events of these types: announcements and orders are in none."""
        groups = {group_of(f"{fact.TYPE}.-.-") for fact in _NAMES.values() if fact.TYPE in self.types}
        return [group for group in GROUPS if group in groups]


async def read_selected(
    js: JetStreamContext, stack: StackAddress, selection: Selection, where: EventFilter | None = None
) -> list[LoggedEvent]:
    """Return the selected events of the log and of its archive, in the order of time.

    The archive is read after the log: what is trimmed meanwhile is in one of both, or in both and returned once. An
    event may have been stored long after its own time, so the archive is read to its end, whatever `until` is.

    Args:
        js: The bus.
        stack: The stack.
        selection: The events.
        where: What is read of the log instead of what the selection names.
    """
    # an event is stored after its own time, but for the clocks of two machines
    since = None if selection.since is None else max(selection.since, _EARLIEST + CLOCK_SKEW) - CLOCK_SKEW
    reading = selection.filter() if where is None else where
    limit, history = selection.limit, await read_history(js, selection.model, reading, since, before_log=True)
    kept = [logged for logged in history if selection.includes(logged.event)]
    async for logged in _archived(js, stack, selection, where, since):
        if selection.includes(logged.event):
            kept.append(logged)
        if limit is not None and len(kept) > 2 * limit + _SPARE:
            kept = merge(kept)[-limit:]
    kept = merge(kept)
    return kept if limit is None else kept[-limit:]


async def _archived(
    js: JetStreamContext, stack: StackAddress, selection: Selection, where: EventFilter | None, since: datetime | None
) -> AsyncIterator[LoggedEvent]:
    """Yield the events of selected types from before the log begins: those of a model, or since a time."""
    begin, groups = await log_begin(js), selection.groups()
    if begin is None or not groups or (since is not None and since >= begin):
        return
    earlier = f"events of services before {begin:%Y-%m-%d %H:%M} UTC are"
    if await own_models(js) is not None:
        warn(f"{earlier} in the archive, which this identity may not read")
        return
    if selection.model is None and since is None:
        warn(f"{earlier} in the archive: --model or --since reads them, too")
        return
    archive = await find_archive(js, stack)
    if archive is None:
        warn(f"{earlier} left out: the log was trimmed of them, and the bus has no record of their archive")
        return
    if selection.model is not None:
        for logged in selected(await archive.of_model(selection.model, groups, since), where):
            yield logged
    elif since is not None:
        async for message in archive.since(since, groups):
            for logged in selected([message], where):
                yield logged

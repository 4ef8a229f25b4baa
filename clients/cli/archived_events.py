"""Read the archive of the event log: events that were removed from the log, by model and by time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any

from nats.js import JetStreamContext

from clients.cli.connection import StackAddress
from clients.cli.event_log import EventFilter, LoggedEvent, log_begin, merge, parse, read_history, subject_matches
from clients.cli.output import CommandError, warn
from clients.cli.reading import own_models
from contracts.envelope import Event
from contracts.event_archive import BUCKET, KEY, ArchivedMessage, ArchivedPart, EventArchive, EventGroup, SegmentIndex
from contracts.services import EVENTS
from decisions.event_archive import body_of
from shared.errors import Permanent
from shared.provenance.envelopes import Trust
from shared.provenance.event_archive import SignedIndexes, count_removed, read_model, read_part
from shared.storage.blobs import Store
from shared.storage.kv import Bucket

GROUPS: tuple[EventGroup, ...] = ("windows", "alerts", "releases")
IsOldest = Callable[[Event[Any]], bool]


class ArchivedEvents:
    """The events that were removed from the log; each segment is verified while it is read."""

    def __init__(self, indexes: SignedIndexes, archive: EventArchive) -> None:
        """Take the indexes of segments, and how far the log is archived and trimmed."""
        self._indexes, self._archive = indexes, archive

    async def of_model(
        self, model: str, groups: Sequence[EventGroup], since: datetime | None = None, last: IsOldest | None = None
    ) -> list[ArchivedMessage]:
        """Return the messages of a model since a time, in the order of the log; segments without any are not opened.

        Args:
            model: The model.
            groups: The groups that are read.
            since: When the bus stored the first one; None for no limit.
            last: Returns whether an event is the oldest one that is needed; no segment before it is read.
        """
        needed = None if last is None else lambda message: _is(message, last)
        return await asyncio.to_thread(
            read_model, self._indexes, self._archive, model, groups, since=since, last=needed
        )

    async def since(self, since: datetime, groups: Sequence[EventGroup]) -> AsyncIterator[ArchivedMessage]:
        """Yield the messages of all models since a time, in the order of the log; one segment is in memory."""
        for number in range(await self._first_since(since), self._archive.trimmed + 1):
            index = await self._index(number)
            messages = await self._parts(index, [part for part in index.parts if part.group in groups])
            for message in messages:
                if message.at >= since:
                    yield message

    async def open_alerts(self, models: Sequence[str] | None) -> list[ArchivedMessage]:
        """Return the messages of alerts that are open where the log was trimmed, in the order of the log."""
        segments: dict[int, dict[str, set[str]]] = {}
        for model, alerts in self._archive.open_alerts.items():
            for alert, number in alerts.items():
                if models is None or model in models:
                    segments.setdefault(number, {}).setdefault(model, set()).add(alert)
        messages: list[ArchivedMessage] = []
        for number, by_model in sorted(segments.items()):
            index = await self._index(number)
            read = await self._parts(index, [p for p in index.parts if p.group == "alerts" and p.model in by_model])
            messages += [each for each in read if any(alert in each.body for alert in set().union(*by_model.values()))]
        return messages

    async def _parts(self, index: SegmentIndex, parts: Sequence[ArchivedPart]) -> list[ArchivedMessage]:
        read = [await asyncio.to_thread(read_part, self._indexes.store, index, part) for part in parts]
        return sorted((message for messages in read for message in messages), key=lambda message: message.sequence)

    async def _first_since(self, since: datetime) -> int:
        """Return the number of the first segment that ends at a time or later; one more than all if none does."""
        low, high = 1, self._archive.trimmed + 1
        while low < high:
            middle = (low + high) // 2
            if (await self._index(middle)).ends_at < since:
                low = middle + 1
            else:
                high = middle
        return low

    async def _index(self, number: int) -> SegmentIndex:
        return await asyncio.to_thread(self._indexes.require, self._archive.id, number)


def _is(message: ArchivedMessage, last: IsOldest) -> bool:
    event = event_of(message)
    return event is not None and last(event.event)


def event_of(message: ArchivedMessage) -> LoggedEvent | None:
    """Return an archived message as an event of the log; None if it is none."""
    event = parse(message.subject, body_of(message))
    return None if event is None else LoggedEvent(EVENTS, message.sequence, event, message.at)


async def find_archive(js: JetStreamContext, stack: StackAddress) -> ArchivedEvents | None:
    """Return the archive of what was removed from the log; None if nothing was, or this identity may not read it.

    A member of a team may not: a segment has events of all models.

    Raises:
        CommandError: the keys of attesters are not known.
    """
    if await own_models(js) is not None:
        return None
    entry = await Bucket(js, BUCKET, EventArchive).get(KEY)
    first = (await js.stream_info(EVENTS)).state.first_seq
    if entry is None or first <= 1:
        return None
    try:
        keys = Trust.from_settings(stack.connection).keys()
    except (Permanent, ValueError) as error:
        raise CommandError(f"the archive of the event log cannot be verified: {error}") from error
    indexes = SignedIndexes(Store(stack.connection), lambda: keys, _warn_of_revoked)
    archive = await asyncio.to_thread(count_removed, indexes, entry.value, first)
    return ArchivedEvents(indexes, archive) if archive.trimmed else None


def _warn_of_revoked(what: str) -> None:
    advice = "who had the key could have written them: compare with a backup from before"
    warn(f"the archive of the event log has segments by revoked keys: {what} {advice}")


async def warn_of_archive(js: JetStreamContext, about: str, command: str) -> None:
    """Warn that a command has only what is in the log, if events were removed from it; name what reads the archive."""
    begin = await log_begin(js)
    if begin is None:
        return
    further = "this identity may not read the archive"
    if await own_models(js) is None:
        further = f"{command} reads them from the archive"
    warn(f"{about} before {begin:%Y-%m-%d %H:%M} UTC are left out: {further}")


def groups_of(where: EventFilter | None) -> Sequence[EventGroup]:
    """Return the groups that have the events of a filter."""
    if where is None:
        return GROUPS
    kinds = {name.partition(".")[0] for name in where.names}
    groups: set[EventGroup] = set()
    groups |= {"windows"} if kinds & {"window", "*"} else set()
    groups |= {"alerts"} if kinds & {"alert", "*"} else set()
    groups |= {"releases"} if kinds - {"window", "alert"} else set()
    return [group for group in GROUPS if group in groups]


def selected(messages: Sequence[ArchivedMessage], where: EventFilter | None) -> list[LoggedEvent]:
    """Return the events of archived messages that a filter selects."""
    subjects = None if where is None else where.subjects(None)
    events = (
        event_of(message)
        for message in messages
        if subjects is None or any(subject_matches(pattern, message.subject) for pattern in subjects)
    )
    return [event for event in events if event is not None]


async def read_whole(
    js: JetStreamContext, stack: StackAddress, model: str, where: EventFilter, last: IsOldest | None = None
) -> list[LoggedEvent]:
    """Return the events of a model that a filter selects, from the archive and the log, in the order of time.

    Args:
        js: The bus.
        stack: The stack.
        model: The model.
        where: The events.
        last: Returns whether an event is the oldest one that is needed.
    """
    history = await read_history(js, model, where, before_log=True)
    archive = await find_archive(js, stack)  # after the log was read: what is trimmed meanwhile is in one of both
    if archive is None:
        begin = await log_begin(js)
        return [each for each in history if begin is None or each.stream == EVENTS or _is_since(each, begin)]
    return merge(selected(await archive.of_model(model, groups_of(where), where.since, last), where), history)


def _is_since(logged: LoggedEvent, begin: datetime) -> bool:
    """Return whether an event was stored at a time or later."""
    return logged.stored_at is None or logged.stored_at >= begin


async def read_alerts(
    js: JetStreamContext, stack: StackAddress, model: str | None, where: EventFilter, *, resolved: bool = False
) -> list[LoggedEvent]:
    """Return the events of alerts in the log, and the last ones of those that are open since before it begins.

    With `resolved` and a model, all of the model's are read from the archive, too.
    """
    if resolved and model is not None:
        return await read_whole(js, stack, model, where)
    history = await read_history(js, model, where)
    archive = await find_archive(js, stack)
    if archive is None:
        return history
    return merge(selected(await archive.open_alerts(None if model is None else [model]), where), history)

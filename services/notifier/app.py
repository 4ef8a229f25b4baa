"""The notifier's handlers: each notes an event in the model's record, and sends what is due of its alert."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

from prometheus_client import Counter

from contracts.envelope import Event
from contracts.facts import AlertRaised, AlertResolved, AlertUpdated, RollbackFailed
from services.notifier.domain import notices
from services.notifier.domain.notices import ModelNotices, Notice, Receiver, Transition
from services.notifier.domain.payloads import CHANNELS
from services.notifier.ports import Sender, SendFailedError
from shared.errors import Permanent, Transient
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock
from shared.storage.compare_and_set import Records, edit_record, failing_as_transient

SERVICE = "notifier"
AT_ONCE = 16
"""Messages of one kind that are handled at once: a receiver that hangs delays few others."""
OLD, SETTLES = timedelta(minutes=5), timedelta(minutes=2)
"""An alert that was raised longer ago than `OLD` is sent `SETTLES` later: its end may follow in the log."""
_HAPPENED = {
    "raised": "an alert was raised",
    "rollback_failed": "no automatic rollback follows from an alert",
    "resolved": "an alert was resolved",
}


@dataclass(frozen=True)
class Notifier:
    """The use cases. What fails is delivered again by the bus; after `give_up` it becomes a dead letter."""

    records: Records[ModelNotices]
    receivers: tuple[Receiver, ...]
    sender: Sender
    counted: Counter
    give_up: timedelta
    clock: Clock
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _tried_since: dict[str, datetime] = field(default_factory=dict)

    async def raised(self, event: Event[AlertRaised] | Event[AlertUpdated]) -> None:
        """Send an alert, or its newer figures to those who did not take it before."""
        alert, now = event.data, self.clock.now()
        key = notices.key_of(alert, event.time)
        record = await self._edit(
            event.subject,
            lambda record: notices.note_raised(record, alert, at=event.time, receivers=self.receivers, now=now),
        )
        notice = record.notices.get(key)
        if notice is not None and now - event.time > OLD and now - notice.read_at < SETTLES:
            raise Transient("endpoint_unreachable", f"The end of {key} may follow.")
        await self._send_all(event, key)

    async def resolved(self, event: Event[AlertResolved]) -> None:
        """Send the end of an alert to the receivers that it was sent to."""
        alert, now = event.data, self.clock.now()
        await self._edit(event.subject, lambda record: notices.note_resolved(record, alert, at=event.time, now=now))
        await self._send_all(event, notices.key_of(alert, event.time))

    async def rollback_failed(self, event: Event[RollbackFailed]) -> None:
        """Send that no automatic rollback follows from an alert; who ordered one by hand is told by the command."""
        age, key = self.clock.now() - event.time, ""
        if event.data.mode == "manual" or age > notices.OLDEST:
            return

        def decide(record: ModelNotices) -> ModelNotices:
            nonlocal key
            record, key = notices.note_rollback_failed(record, event.data, event.time)
            return record

        await self._edit(event.subject, decide)
        if not key and age < OLD:
            raise Transient("endpoint_unreachable", f"No alert of {event.data.failed} was read yet.")
        await self._send_all(event, key)

    async def repeat(self, model: str) -> None:
        """Send the open alerts of a model again to Alertmanager, which ends those that are not; forget old ones."""
        record = await self._edit(model, lambda record: notices.prune(record, self.clock.now()))
        managers = [receiver.name for receiver in self.receivers if CHANNELS[receiver.kind].repeated]
        for key in record.notices:
            async with self._lock(key):
                notice = (await self._read(model)).notices.get(key)
                if notice is None or notice.resolved_at is not None:
                    continue
                told = [name for name in managers if "raised" in notice.sent.get(name, ())]
                await asyncio.gather(*(self._send(model, key, notice, name, ["raised"]) for name in told))

    async def _send_all(self, event: Event[Any], key: str) -> None:
        """Send what is due of an alert to all receivers at once; raise if one did not take it."""
        model = event.subject
        async with self._lock(key):
            notice = (await self._read(model)).notices.get(key)
            if notice is None:
                return
            names = [receiver.name for receiver in self.receivers]
            sending = (self._send(model, key, notice, name, notice.due(name)) for name in names)
            failed = {
                name: reason for name, reason in zip(names, await asyncio.gather(*sending), strict=True) if reason
            }
        since = self._tried_since.pop(event.id, now := self.clock.now())
        if not failed:
            return
        for old in [each for each, tried in self._tried_since.items() if now - tried > 2 * self.give_up]:
            del self._tried_since[old]  # another process had the last delivery
        if now - since >= self.give_up:
            for name in failed:
                self.counted.labels(name, "given_up").inc()
            raise Permanent("endpoint_unreachable", "; ".join(failed.values()))
        self._tried_since[event.id] = since
        raise Transient("endpoint_unreachable", "; ".join(failed.values()))

    async def _send(self, model: str, key: str, notice: Notice, receiver: str, due: list[Transition]) -> str:
        """Send a receiver what is due; return why it did not take it, "" if it did."""
        for transition in due:
            if transition == "raised":  # a receiver that may know of it gets its end
                await self._edit(model, lambda record: notices.note_sent(record, key, receiver, ("tried",)))
            try:
                await self.sender.send(receiver, notice, transition)
            except SendFailedError as error:
                self.counted.labels(receiver, "failed").inc()
                return f"{receiver} did not get that {_HAPPENED[transition]}: {error}."
            self.counted.labels(receiver, "sent").inc()
            taken = notice.taken_with(transition)
            await self._edit(model, lambda record: notices.note_sent(record, key, receiver, taken))  # noqa: B023
        return ""

    def _lock(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())

    async def _read(self, model: str) -> ModelNotices:
        with failing_as_transient(f"notifications/{model}", "read"):
            entry = await self.records.get(model)
        return entry.value if entry is not None else ModelNotices(model=model)

    async def _edit(self, model: str, change: Callable[[ModelNotices], ModelNotices]) -> ModelNotices:
        def decide(record: ModelNotices | None) -> ModelNotices:
            return change(record or ModelNotices(model=model))

        async with self._lock(model):
            entry = await edit_record(self.records, model, decide, name=f"notifications/{model}")
        return entry.value if entry is not None else ModelNotices(model=model)


def build(bus: Bus, notifier: Notifier) -> None:
    """Register the handlers on the bus. Alerts of staging are not read."""
    bus.on(AlertRaised, max_workers=AT_ONCE)(notifier.raised)
    bus.on(AlertUpdated, max_workers=AT_ONCE)(notifier.raised)
    bus.on(AlertResolved, max_workers=AT_ONCE)(notifier.resolved)
    bus.on(RollbackFailed, max_workers=AT_ONCE)(notifier.rollback_failed)

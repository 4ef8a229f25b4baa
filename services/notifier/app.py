"""The notifier's handlers: each notes an event in the model's record, and sends what is due."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from weakref import WeakValueDictionary

import structlog
from prometheus_client import Counter

from contracts.envelope import Event
from contracts.facts import AlertRaised, AlertResolved, AlertUpdated, RollbackFailed
from services.notifier.domain import notices
from services.notifier.domain.notices import ModelNotices, Notice, Receiver, Taken
from services.notifier.ports import Sender, SendFailedError
from shared.errors import Transient
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock
from shared.storage.compare_and_set import Records, edit_record

SERVICE = "notifier"
AT_ONCE = 16
"""Messages of one kind, and models, that are handled at once: a receiver that hangs delays few others."""
WAITS = timedelta(minutes=5)
"""How long a failed rollback waits for its alert to be read."""


@dataclass(frozen=True)
class Notifier:
    """The use cases. What a receiver did not take stays due; `repeat` sends it again."""

    records: Records[ModelNotices]
    receivers: tuple[Receiver, ...]
    sender: Sender
    counted: Counter
    clock: Clock
    _failing: set[str] = field(default_factory=set)
    """Receivers that did not take the last notification: only `repeat` calls them, so that no event waits for them."""
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def alert(self, event: Event[AlertRaised] | Event[AlertUpdated] | Event[AlertResolved]) -> None:
        """Send an alert, or its end; newer figures only to receivers that have not taken it yet."""
        now, receivers = self.clock.now(), self.receivers
        noted = partial(notices.note_alert, alert=event.data, at=event.time, now=now, receivers=receivers)
        await self._send_due(event.subject, noted)

    async def rollback_failed(self, event: Event[RollbackFailed]) -> None:
        """Send that an alert leads to no automatic rollback; a manual rollback's command reports its failure itself."""
        rollback = event.data
        if not rollback.alert_id:
            return
        record = await self._send_due(event.subject, partial(notices.note_rollback_failed, rollback=rollback))
        is_known = any(notice.alert.alert_id == rollback.alert_id for notice in record.notices.values())
        if not is_known and self.clock.now() - event.time < WAITS:
            raise Transient("endpoint_unreachable", f"The alert {rollback.alert_id} was not read yet.")

    async def repeat(self, model: str) -> None:
        """Send what is due of a model, and its open alerts again to Alertmanager, which expires others."""
        await self._send_due(model, partial(notices.prune, now=self.clock.now()), repeated=True)

    async def _send_due(
        self, model: str, change: Callable[[ModelNotices], ModelNotices], *, repeated: bool = False
    ) -> ModelNotices:
        """Change a model's record, send what is due then to all receivers at once, and return it."""
        async with self._locks.setdefault(model, asyncio.Lock()):
            record = await self._edit(model, change)
            await asyncio.gather(*(self._send_to(receiver, record, repeated=repeated) for receiver in self.receivers))
            return record

    async def _send_to(self, receiver: Receiver, record: ModelNotices, *, repeated: bool) -> None:
        """Send a receiver what is due of a model's notices at once, and note what it took."""
        known = record.notices.items()
        sent = await asyncio.gather(*(self._send(receiver, *each, repeated=repeated) for each in known))
        if taken := [each for part in sent for each in part]:
            await self._edit(record.model, partial(notices.note_sent, taken=taken))

    async def _send(self, receiver: Receiver, key: str, notice: Notice, *, repeated: bool) -> list[Taken]:
        """Send a receiver what is due of a notice up to the first failure, and return what it took."""
        taken: list[Taken] = []
        if receiver.name in self._failing and not repeated:
            return taken
        for transition in notice.due(receiver, repeated=repeated and receiver.kind == "alertmanager"):
            try:
                await self.sender.send(receiver, notice, transition)
            except SendFailedError as error:
                self._failing.add(receiver.name)
                self.counted.labels(receiver.name, "failed").inc()
                log = structlog.get_logger().bind(receiver=receiver.name, alert=key, transition=transition)
                log.warning("not sent, will be tried again", reason=str(error))
                break
            self._failing.discard(receiver.name)
            self.counted.labels(receiver.name, "sent").inc()
            taken.append((key, receiver.name, transition))
        return taken

    async def _edit(self, model: str, change: Callable[[ModelNotices], ModelNotices]) -> ModelNotices:
        """Change the record of a model, and return the new record."""
        empty, name = ModelNotices(model=model), f"notifications/{model}"
        entry = await edit_record(self.records, model, lambda record: change(record or empty), name=name)
        return entry.value if entry is not None else empty


def build(bus: Bus, notifier: Notifier) -> None:
    """Register the handlers on the bus. Alerts of staging are not read."""
    bus.on(AlertRaised, max_workers=AT_ONCE)(notifier.alert)
    bus.on(AlertUpdated, max_workers=AT_ONCE)(notifier.alert)
    bus.on(AlertResolved, max_workers=AT_ONCE)(notifier.alert)
    bus.on(RollbackFailed, max_workers=AT_ONCE)(notifier.rollback_failed)

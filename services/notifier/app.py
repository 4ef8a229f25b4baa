"""The notifier's handlers: each notes an event in the model's record, and sends due notices."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from weakref import WeakValueDictionary

import structlog
from prometheus_client import Counter

from contracts.envelope import Event
from contracts.facts import AlertRaised, AlertResolved, AlertUpdated, RollbackFailed
from services.notifier.domain import notices
from services.notifier.domain.notices import ModelNotices, Notice, Receiver, Transition
from services.notifier.domain.payloads import CHANNELS
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
    """The use cases. A notice that a receiver did not accept stays due; `repeat` sends it again."""

    records: Records[ModelNotices]
    receivers: tuple[Receiver, ...]
    sender: Sender
    counted: Counter
    clock: Clock
    _noting: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Many receivers answer at once: what they took is noted one after the other."""
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def raised(self, event: Event[AlertRaised] | Event[AlertUpdated]) -> None:
        """Send an alert, or its newer figures to receivers that have not accepted it yet."""
        alert, at, now = event.data, event.time, self.clock.now()
        await self._edit(
            event.subject,
            lambda record: notices.note_raised(record, alert, at=at, receivers=self.receivers, now=now),
        )
        await self._send_due(event.subject)

    async def resolved(self, event: Event[AlertResolved]) -> None:
        """Send the end of an alert to the receivers that it was sent to."""
        alert, at, now = event.data, event.time, self.clock.now()
        await self._edit(event.subject, lambda record: notices.note_resolved(record, alert, at=at, now=now))
        await self._send_due(event.subject)

    async def rollback_failed(self, event: Event[RollbackFailed]) -> None:
        """Send that an alert leads to no automatic rollback; a manual rollback's command reports its failure itself."""
        rollback, age = event.data, self.clock.now() - event.time
        if rollback.mode == "manual" or age > notices.OLDEST:
            return
        record = await self._edit(
            event.subject, lambda record: notices.note_rollback_failed(record, rollback, event.time)
        )
        if notices.find_alert(record, rollback, event.time) is None and age < WAITS:
            raise Transient("endpoint_unreachable", f"No alert of {rollback.failed} was read yet.")
        await self._send_due(event.subject)

    async def repeat(self, model: str) -> None:
        """Send a model's due notices, and its open alerts again to Alertmanager, which expires others."""
        await self._edit(model, lambda record: notices.prune(record, self.clock.now()))
        await self._send_due(model, repeated=True)

    async def _send_due(self, model: str, *, repeated: bool = False) -> None:
        """Send all receivers their due notices, concurrently.

        Only `repeat` sends a failed notice again: otherwise a receiver that hangs would hold up each event.
        """
        async with self._locks.setdefault(model, asyncio.Lock()):
            record, now = await self._edit(model, lambda record: record), self.clock.now()
            due: dict[tuple[str, str], list[Transition]] = {}
            for key, notice in record.notices.items():
                for receiver in self.receivers:
                    may_repeat = repeated and CHANNELS[receiver.kind].repeated
                    ahead = notice.due(receiver.name, now) or (notice.repeats(receiver.name) if may_repeat else [])
                    if ahead and (repeated or notice.try_of(ahead[0]) not in notice.sent[receiver.name]):
                        due[key, receiver.name] = ahead
            if not due:
                return
            tried = {(key, receiver): (record.notices[key].try_of(ahead[0]),) for (key, receiver), ahead in due.items()}
            await self._edit(model, lambda record: notices.note_sent(record, tried))  # who may know gets the end
            sending = (self._send(model, record.notices[to[0]], to, transitions) for to, transitions in due.items())
            for outcome in await asyncio.gather(*sending, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _send(self, model: str, notice: Notice, to: tuple[str, str], due: Iterable[Transition]) -> None:
        """Send a receiver the due transitions up to the first failure, and note each accepted one at once."""
        receiver = to[1]
        for transition in due:
            try:
                await self.sender.send(receiver, notice, transition)
            except SendFailedError as error:
                self.counted.labels(receiver, "failed").inc()
                structlog.get_logger().warning(
                    "not sent, will be tried again",
                    receiver=receiver,
                    alert=notice.alert.alert_id,
                    transition=transition,
                    reason=str(error),
                )
                return
            self.counted.labels(receiver, "sent").inc()
            taken = {to: notice.taken_with(transition)}
            async with self._noting:
                await self._edit(model, partial(notices.note_sent, taken=taken))

    async def _edit(self, model: str, change: Callable[[ModelNotices], ModelNotices]) -> ModelNotices:
        """Change the record of a model, and return the new record."""

        def decide(record: ModelNotices | None) -> ModelNotices:
            return change(record or ModelNotices(model=model))

        entry = await edit_record(self.records, model, decide, name=f"notifications/{model}")
        return entry.value if entry is not None else ModelNotices(model=model)


def build(bus: Bus, notifier: Notifier) -> None:
    """Register the handlers on the bus. Alerts of staging are not read."""
    bus.on(AlertRaised, max_workers=AT_ONCE)(notifier.raised)
    bus.on(AlertUpdated, max_workers=AT_ONCE)(notifier.raised)
    bus.on(AlertResolved, max_workers=AT_ONCE)(notifier.resolved)
    bus.on(RollbackFailed, max_workers=AT_ONCE)(notifier.rollback_failed)

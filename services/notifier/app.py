"""The notifier's handlers: alerts become notifications in a record; orders silence and acknowledge them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from contracts.envelope import Event
from contracts.facts import (
    AcknowledgementOrdered,
    AlertRaised,
    AlertResolved,
    AlertUpdated,
    OrderAccepted,
    RollbackFailed,
    SilenceOrdered,
)
from services.notifier.delivery import Deliverer
from services.notifier.domain import notices, silences
from services.notifier.domain.receivers import Receiver
from services.notifier.domain.record import ModelNotices, Silence
from services.notifier.metrics import NotifierMetrics
from services.notifier.ports import DeadLetters, Sender
from services.notifier.settings import NotifierSettings
from shared.errors import Permanent
from shared.messaging.bus import Bus, Received
from shared.messaging.orders import check_age, order_refused
from shared.messaging.records import RecordStore
from shared.runtime.clock import Clock
from shared.runtime.sweeper import Sweeper

SERVICE = "notifier"
LONGEST_SILENCE = timedelta(days=30)
AT_ONCE = 16


@dataclass(frozen=True)
class Notifier:
    """The use cases, one for each kind of event."""

    records: RecordStore[ModelNotices]
    receivers: tuple[Receiver, ...]
    deliverer: Deliverer
    clock: Clock

    async def raised(self, event: Event[AlertRaised], received: Received) -> None:
        """Queue an alert for its receivers."""
        await self._edit(
            event.subject,
            lambda record: notices.note_raised(
                record,
                event.data,
                at=event.time,
                sequence=received.sequence,
                again=event.requeuedby is not None,
                receivers=self.receivers,
                now=self.clock.now(),
            ),
        )

    async def updated(self, event: Event[AlertUpdated], received: Received) -> None:
        """Keep newer figures of an alert."""
        await self._edit(
            event.subject,
            lambda record: notices.note_updated(
                record,
                event.data,
                at=event.time,
                sequence=received.sequence,
                receivers=self.receivers,
                now=self.clock.now(),
            ),
        )

    async def resolved(self, event: Event[AlertResolved], received: Received) -> None:
        """Queue the end of an alert."""
        await self._edit(
            event.subject,
            lambda record: notices.note_resolved(
                record, event.data, at=event.time, sequence=received.sequence, now=self.clock.now()
            ),
        )

    async def rollback_failed(self, event: Event[RollbackFailed], received: Received) -> None:
        """Queue that no automatic rollback follows from an alert."""
        now = self.clock.now()

        def decide(record: ModelNotices) -> ModelNotices:
            return notices.note_rollback_failed(record, event.data, at=event.time, sequence=received.sequence, now=now)

        await self._edit(event.subject, decide)

    async def silence(self, event: Event[SilenceOrdered], received: Received) -> OrderAccepted:
        """Hold alerts of a model back; raise Permanent if the order is void, or too long."""
        order, now = event.data, self.clock.now()
        check_age(event, received.stored_at, now, until=order.expires_at)
        if order.until - now > LONGEST_SILENCE:
            reason = f"A silence until {order.until.isoformat()} is longer than {LONGEST_SILENCE.days} days."
            raise Permanent("malformed_event", f"{reason} Order a shorter one, and another one later.")
        ordered = Silence(
            trigger=order.trigger, until=order.until, by=event.sender, reason=order.reason, order_id=event.id
        )
        record = await self._edit(event.subject, lambda record: silences.silence(record, ordered, now))
        open_alerts = [notice.alert.alert_id for notice in notices.open_notices(record)]
        details = {"until": order.until.isoformat(), "open_alerts": open_alerts[:20]}
        return OrderAccepted(order_id=event.id, order_type=event.type, details=details)

    async def acknowledge(self, event: Event[AcknowledgementOrdered], received: Received) -> OrderAccepted:
        """Note who takes care of an alert, and send it; raise Permanent if the order is void, or no such alert open."""
        order, now = event.data, self.clock.now()
        check_age(event, received.stored_at, now, until=order.expires_at)
        by = ""

        def decide(record: ModelNotices) -> ModelNotices:
            nonlocal by
            after = notices.acknowledge(
                record,
                order.alert_id,
                by=event.sender,
                reason=order.reason,
                sequence=received.sequence,
                now=now,
            )
            if after is None:
                raise Permanent(
                    "alert_resolved",
                    f"No alert {order.alert_id} of {event.subject} is open. See `slipway alerts {event.subject}`.",
                )
            by = next(
                notice.acknowledged_by
                for notice in notices.open_notices(after)
                if notice.alert.alert_id == order.alert_id
            )
            return after

        await self._edit(event.subject, decide)
        return OrderAccepted(order_id=event.id, order_type=event.type, details={"acknowledged_by": by})

    async def _edit(self, model: str, change: Callable[[ModelNotices], ModelNotices]) -> ModelNotices:
        def decide(record: ModelNotices | None) -> ModelNotices:
            return change(record or ModelNotices(model=model))

        return await self.records.transact(model, decide)


def build(
    bus: Bus,
    *,
    records: RecordStore[ModelNotices],
    receivers: tuple[Receiver, ...],
    sender: Sender,
    letters: DeadLetters,
    metrics: NotifierMetrics,
    settings: NotifierSettings,
    clock: Clock,
) -> Notifier:
    """Register the handlers on the bus, and return the use cases behind them. Alerts of staging are not read."""
    deliverer = Deliverer(
        records=records,
        receivers=receivers,
        sender=sender,
        letters=letters,
        metrics=metrics,
        times=settings.times(),
        clock=clock,
    )
    notifier = Notifier(records, receivers, deliverer, clock)

    @bus.on(AlertRaised)
    async def alert_raised(event: Event[AlertRaised]) -> None:
        await notifier.raised(event, bus.received)

    @bus.on(AlertUpdated)
    async def alert_updated(event: Event[AlertUpdated]) -> None:
        await notifier.updated(event, bus.received)

    @bus.on(AlertResolved)
    async def alert_resolved(event: Event[AlertResolved]) -> None:
        await notifier.resolved(event, bus.received)

    @bus.on(RollbackFailed)
    async def rollback_failed(event: Event[RollbackFailed]) -> None:
        await notifier.rollback_failed(event, bus.received)

    @bus.on(SilenceOrdered, failure=order_refused)
    async def silence_ordered(event: Event[SilenceOrdered]) -> OrderAccepted:
        return await notifier.silence(event, bus.received)

    @bus.on(AcknowledgementOrdered, failure=order_refused)
    async def acknowledgement_ordered(event: Event[AcknowledgementOrdered]) -> OrderAccepted:
        return await notifier.acknowledge(event, bus.received)

    return notifier


def build_sweeper(notifier: Notifier, settings: NotifierSettings) -> Sweeper[str]:
    """Return the loop that sends what is due."""
    deliverer = notifier.deliverer
    limit_s = settings.timeout_s + 30.0
    return Sweeper(
        "notifications",
        deliverer.models,
        deliverer.deliver,
        every_s=settings.sweep_s,
        item_limit_s=limit_s,
        at_once=AT_ONCE,
    )

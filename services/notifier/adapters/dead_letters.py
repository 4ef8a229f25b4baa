"""Dead letters of notifications, in the stream of all dead letters."""

from typing import Final

from nats.errors import Error as NatsError

from contracts.services import DEADLETTER_PREFIX, EVENTS, ORDERS
from services.notifier.domain.notices import Due
from shared.errors import Transient
from shared.messaging.bus import Bus
from shared.messaging.delivery import header_safe

_HAPPENED: Final = {
    "raised": "an alert was raised",
    "rollback_failed": "no automatic rollback follows from an alert",
    "acknowledged": "an alert was acknowledged",
    "resolved": "an alert was resolved",
    "silence_ended": "a silence ended, and what it held back",
}


class StoredDeadLetters:
    """The stream `SLIPWAY_DEADLETTER` (implements `ports.DeadLetters`); a letter has the alert's own event."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def store(self, model: str, due: Due, *, attempts: int, reason: str) -> None:
        """Store the event of a notification that was given up; raise Transient if the stream does not have it."""
        try:
            await self._store(model, due, attempts, reason)
        except (NatsError, TimeoutError) as error:
            raise Transient("bus_unavailable", f"A dead letter could not be stored: {error!r}.") from error

    async def _store(self, model: str, due: Due, attempts: int, reason: str) -> None:
        sequence = due.notice.sequences.get(due.transition, due.notice.sequences.get("raised", 0))
        js, where = self._bus.js, ORDERS if due.transition == "acknowledged" else EVENTS
        event = await js.get_msg(where, sequence)
        headers = {
            "Nats-Msg-Id": f"{where}:{sequence}:notifier:{due.receiver}",
            "Slipway-Code": "endpoint_unreachable",
            "Slipway-Reason": header_safe(f"{due.receiver} did not get that {_HAPPENED[due.transition]}: {reason}"),
            "Slipway-Service": self._bus.service,
            "Slipway-Consumer": due.receiver,
            "Slipway-Subject": event.subject or "",
            "Slipway-Stream": where,
            "Slipway-Sequence": str(sequence),
            "Slipway-Deliveries": str(attempts),
            "Slipway-At": self._bus.clock.now().isoformat(),
        }
        subject = f"{DEADLETTER_PREFIX}.{model}.{self._bus.service}"
        await js.publish(subject, event.data or b"", headers=headers, timeout=10)

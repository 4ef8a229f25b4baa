"""Reads the streams: the times of alerts, and the last arrivals about a model.

One stream has all facts, so their order decides.
"""

import json
from collections.abc import Callable

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.envelope import nats_subject
from contracts.facts import AlertRaised, AlertResolved, DeploymentChanged, InferenceBatch, WindowSummarised
from contracts.services import EVENTS, TELEMETRY, Stream
from contracts.vocabulary import Environment
from services.rollback_controller.domain.record import Arriving
from shared.errors import Transient

_KINDS: dict[Arriving, tuple[Stream, str]] = {
    "telemetry": (TELEMETRY, InferenceBatch.TYPE),
    "windows": (EVENTS, WindowSummarised.TYPE),
}


def concerns(body: bytes, alert_id: str) -> bool:
    """Return whether a message is about an alert; an unreadable message is not."""
    try:
        return bool(json.loads(body)["data"]["alert_id"] == alert_id)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return False


class LoggedAlerts:
    """The stream `SLIPWAY_EVENTS` (implements `ports.Alerts`)."""

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    async def resolved_since(self, environment: Environment, model: str, alert_id: str, sequence: int) -> bool:
        """Return whether the log has the resolution of an alert after a sequence number."""
        return await self._has(nats_subject(AlertResolved.TYPE, model, "*", environment), alert_id, sequence)

    async def last_route_change(self, environment: Environment, model: str) -> int:
        """Return the sequence number in the log of the last change of a route; 0 if there is none."""
        return await self._last(nats_subject(DeploymentChanged.TYPE, model, "*", environment))

    async def last_raised(self, environment: Environment, model: str) -> int:
        """Return the sequence number in the log of the last alert that was raised; 0 if there is none."""
        return await self._last(nats_subject(AlertRaised.TYPE, model, "*", environment))

    async def raised_since(self, environment: Environment, model: str, alert_id: str, sequence: int) -> bool:
        """Return whether the log says after a sequence number that an alert was raised."""
        return await self._has(nats_subject(AlertRaised.TYPE, model, "*", environment), alert_id, sequence)

    async def _has(self, subject: str, alert_id: str, sequence: int) -> bool:
        """Return whether a message of a subject after a sequence number is about an alert."""
        while True:
            try:
                message = await self._js().get_msg(EVENTS, sequence + 1, subject=subject, next=True)
            except NotFoundError:
                return False
            if concerns(message.data or b"", alert_id):
                return True
            sequence = message.seq or sequence + 1

    async def _last(self, subject: str) -> int:
        try:
            message = await self._js().get_last_msg(EVENTS, subject)
        except NotFoundError:
            return 0
        return message.seq or 0


class StreamArrivals:
    """The streams of telemetry and of facts (implements `ports.Arrivals`)."""

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    async def last(self, kind: Arriving, model: str) -> int:
        """Return the sequence number of the last message of a kind; 0 without one. Raise Transient without a bus."""
        stream, fact_type = _KINDS[kind]
        try:
            message = await self._js().get_last_msg(stream, nats_subject(fact_type, model, "*"))
        except NotFoundError:
            return 0
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Transient("bus_unavailable", f"The bus does not answer: {error!r}.") from error
        return message.seq or 0

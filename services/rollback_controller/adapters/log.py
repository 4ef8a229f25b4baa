"""Reads the log: the times of alerts and of changes of a route.

One stream has all facts, so their order decides.
"""

import json
from collections.abc import Callable

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.envelope import nats_subject
from contracts.facts import AlertRaised, AlertResolved, DeploymentChanged
from contracts.services import EVENTS
from contracts.vocabulary import Environment


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

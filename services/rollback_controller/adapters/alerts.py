"""Looks up in the log of facts whether an alert was resolved: one stream has both facts, so their order decides."""

import json
from collections.abc import Callable

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.envelope import nats_subject
from contracts.facts import AlertResolved, DeploymentChanged
from contracts.services import EVENTS
from contracts.vocabulary import Environment


def resolves(body: bytes, alert_id: str) -> bool:
    """Return whether a message says that an alert is resolved; what cannot be read says nothing."""
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
        subject = nats_subject(AlertResolved.TYPE, model, "*", environment)
        while True:
            try:
                message = await self._js().get_msg(EVENTS, sequence + 1, subject=subject, next=True)
            except NotFoundError:
                return False
            if resolves(message.data or b"", alert_id):
                return True
            sequence = message.seq or sequence + 1

    async def last_route_change(self, environment: Environment, model: str) -> int:
        """Return the sequence number in the log of the last change of a route; 0 if there is none."""
        try:
            subject = nats_subject(DeploymentChanged.TYPE, model, "*", environment)
            message = await self._js().get_last_msg(EVENTS, subject)
        except NotFoundError:
            return 0
        return message.seq or 0

"""Reads the event log: the order of alerts and route changes, by their sequence numbers in one stream."""

import json
from collections.abc import Callable

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.envelope import nats_subject
from contracts.facts import AlertRaised, AlertResolved, DeploymentChanged, RehearsalRequested
from contracts.services import EVENTS
from contracts.vocabulary import Environment
from shared.messaging.events import parse_event


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
        """Return whether an alert was resolved after a sequence number."""
        return await self._has(nats_subject(AlertResolved.TYPE, model, "*", environment), alert_id, sequence)

    async def last_route_change(self, environment: Environment, model: str) -> int:
        """Return the sequence number of the last `deployment.changed`; 0 without one."""
        return await self._last(nats_subject(DeploymentChanged.TYPE, model, "*", environment))

    async def last_raised(self, environment: Environment, model: str) -> int:
        """Return the sequence number of the last `alert.raised`; 0 without one."""
        return await self._last(nats_subject(AlertRaised.TYPE, model, "*", environment))

    async def raised_since(self, environment: Environment, model: str, alert_id: str, sequence: int) -> bool:
        """Return whether an alert was raised after a sequence number."""
        return await self._has(nats_subject(AlertRaised.TYPE, model, "*", environment), alert_id, sequence)

    async def rehearsal_requested(self, model: str) -> RehearsalRequested | None:
        """Return the last request for a rehearsal of a model's release; None without one."""
        subject = nats_subject(RehearsalRequested.TYPE, model, "*")
        try:
            message = await self._js().get_last_msg(EVENTS, subject)
        except NotFoundError:
            return None
        return parse_event(RehearsalRequested, message.subject or "", message.data or b"").data

    async def _has(self, subject: str, alert_id: str, sequence: int) -> bool:
        """Return whether a subject has a message about an alert after a sequence number."""
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

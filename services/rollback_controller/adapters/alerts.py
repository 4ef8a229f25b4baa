"""Whether an alert is still open, as the log of facts says: one stream has both, so its order decides."""

import json
from collections.abc import Callable

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.envelope import nats_subject
from contracts.facts import AlertResolved
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
        """Return whether the log has the resolution of an alert behind a place in it."""
        subject = nats_subject(AlertResolved.TYPE, model, environment)
        while True:
            try:
                message = await self._js().get_msg(EVENTS, sequence + 1, subject=subject, next=True)
            except NotFoundError:
                return False
            if resolves(message.data or b"", alert_id):
                return True
            sequence = message.seq or sequence + 1

"""Reads from the log of facts which alerts a service has raised about a model, where its own record was lost."""

import json
from collections.abc import AsyncGenerator, Callable

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from contracts.envelope import Event, nats_subject
from contracts.facts import AlertRaised, AlertResolved
from contracts.services import EVENTS
from contracts.vocabulary import Environment
from decisions.alerts import PastAlerts, occurrence_of


class AlertLog:
    """The alerts of one service in the stream `SLIPWAY_EVENTS`."""

    def __init__(self, js: Callable[[], JetStreamContext], service: str) -> None:
        self._js = js
        self._service = service

    async def read(self, environment: Environment, model: str) -> PastAlerts:
        """Return the alerts about a model that the log has; messages that cannot be read are left out."""
        raised: dict[str, tuple[int, AlertRaised]] = {}
        async for sequence, body in self._messages(AlertRaised, environment, model):
            try:
                alert = Event[AlertRaised].model_validate_json(body).data
            except ValidationError:
                continue
            raised[alert.alert_id] = (sequence, alert)
        resolved = {}
        async for sequence, body in self._messages(AlertResolved, environment, model):
            resolved[json.loads(body)["data"]["alert_id"]] = sequence
        still_open = (alert for name, (sequence, alert) in raised.items() if resolved.get(name, 0) < sequence)
        return PastAlerts(tuple(still_open), max(map(occurrence_of, raised), default=0))

    async def _messages(
        self, fact: type[AlertRaised | AlertResolved], environment: Environment, model: str
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        subject, sequence = nats_subject(fact.TYPE, model, self._service, environment), 0
        while True:
            try:
                message = await self._js().get_msg(EVENTS, sequence + 1, subject=subject, next=True)
            except NotFoundError:
                return
            sequence = message.seq or sequence + 1
            yield sequence, message.data or b""

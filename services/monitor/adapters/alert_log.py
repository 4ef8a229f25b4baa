"""Reads the monitor's open alerts from the event log, to rebuild a lost record."""

from collections.abc import Callable
from typing import TypeVar

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from contracts.envelope import Event, nats_subject
from contracts.facts import AlertRaised, AlertResolved
from contracts.services import EVENTS
from contracts.vocabulary import Environment

F = TypeVar("F", AlertRaised, AlertResolved)


class AlertLog:
    """The monitor's alerts in the stream `SLIPWAY_EVENTS` (implements `ports.OpenAlerts`)."""

    def __init__(self, js: Callable[[], JetStreamContext], service: str) -> None:
        self._js = js
        self._service = service

    async def read(self, environment: Environment, model: str) -> tuple[AlertRaised, ...]:
        """Return a model's open alerts; unreadable messages are ignored."""
        raised = await self._last(Event[AlertRaised], AlertRaised.TYPE, environment, model)
        resolved = await self._last(Event[AlertResolved], AlertResolved.TYPE, environment, model) if raised else {}
        still_open = (alert for name, (sequence, alert) in raised.items() if resolved.get(name, (0,))[0] < sequence)
        return tuple(still_open)

    async def _last(
        self, kind: type[Event[F]], fact_type: str, environment: Environment, model: str
    ) -> dict[str, tuple[int, F]]:
        """Return the last fact about each alert, with its sequence number, by alert id."""
        subject, sequence = nats_subject(fact_type, model, self._service, environment), 0
        facts: dict[str, tuple[int, F]] = {}
        while True:
            try:
                message = await self._js().get_msg(EVENTS, sequence + 1, subject=subject, next=True)
            except NotFoundError:
                return facts
            sequence = message.seq or sequence + 1
            try:
                alert = kind.model_validate_json(message.data or b"").data
            except ValidationError:
                continue
            facts[alert.alert_id] = (sequence, alert)

"""Which models are not watched, by the records of the monitor and of the rollback-controller."""

from typing import TypeVar

from nats.js import JetStreamContext
from pydantic import Field

from clients.cli.reading import RecordsOfModels, models_in_reach
from contracts.records import record_key
from contracts.vocabulary import Contract
from shared.errors import Transient
from shared.messaging.delivery import RECORD_FAILURES

R = TypeVar("R", bound=Contract)


class _Alert(Contract):
    """Of an alert in the monitor's record."""

    kind: str
    message: str = ""
    open: bool = True


class _Monitored(Contract):
    """Of the monitor's record of a model: its alerts."""

    alerts: dict[str, _Alert] = Field(default_factory=dict)


class _Blindness(Contract):
    """Of the rollback-controller's alert that a model is not watched."""

    message: str = ""


class _Controlled(Contract):
    """Of the rollback-controller's record of a model: the alert that it is not watched."""

    blind: _Blindness | None = None


async def read_blind(js: JetStreamContext, model: str | None = None) -> list[str]:
    """Return the open alerts that a model, by default any, is not monitored in production.

    Of a record that cannot be read it is why.
    """
    models = await models_in_reach(js, model)
    try:
        monitored = await _read(RecordsOfModels(js, "alerts", _Monitored), models)
        controlled = await _read(RecordsOfModels(js, "rollbacks", _Controlled), models)
    except Transient as error:
        if error.code not in RECORD_FAILURES:
            raise
        return [error.sentence()]
    alerts = [alert for record in monitored for alert in record.alerts.values() if alert.open and alert.kind == "blind"]
    blind = [record.blind for record in controlled if record.blind is not None]
    messages = [*(alert.message for alert in alerts), *(alert.message for alert in blind)]
    return [message or "A model is not watched: see `slipway alerts`." for message in messages]


async def _read(records: RecordsOfModels[R], models: tuple[str, ...] | None) -> list[R]:
    """Return the records of models in production; of all if there are none."""
    if models is None:
        return list((await records.matching(record_key("production", "*"))).values())
    found = [await records.get(record_key("production", model)) for model in models]
    return [record for record in found if record is not None]

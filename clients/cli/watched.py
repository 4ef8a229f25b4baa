"""Which models are not watched, by the records of the monitor."""

from nats.js import JetStreamContext
from pydantic import Field

from clients.cli.reading import RecordsOfModels, models_in_reach
from contracts.records import record_key
from contracts.vocabulary import Contract
from shared.errors import Transient
from shared.messaging.delivery import RECORD_FAILURES


class _Alert(Contract):
    """Of an alert in the monitor's record."""

    kind: str
    message: str = ""
    open: bool = True


class _Monitored(Contract):
    """Of the monitor's record of a model: its alerts."""

    alerts: dict[str, _Alert] = Field(default_factory=dict)


async def read_blind(js: JetStreamContext, model: str | None = None) -> list[str]:
    """Return the open alerts that a model, by default any, is not monitored in production.

    Of a record that cannot be read it is why.
    """
    try:
        monitored = await _read(RecordsOfModels(js, "alerts", _Monitored), await models_in_reach(js, model))
    except Transient as error:
        if error.code not in RECORD_FAILURES:
            raise
        return [error.sentence()]
    alerts = [alert for record in monitored for alert in record.alerts.values() if alert.open and alert.kind == "blind"]
    return [alert.message or "A model is not watched: see `slipway alerts`." for alert in alerts]


async def _read(records: RecordsOfModels[_Monitored], models: tuple[str, ...] | None) -> list[_Monitored]:
    """Return the records of models in production; of all if there are none."""
    if models is None:
        return list((await records.matching(record_key("production", "*"))).values())
    found = [await records.get(record_key("production", model)) for model in models]
    return [record for record in found if record is not None]

"""Which models are not watched: the open alerts of kind `blind`."""

from nats.js import JetStreamContext

from clients.cli.connection import StackAddress, connected
from clients.cli.event_log import EventFilter, read_history
from clients.cli.views.alert import fold

_EVENTS = EventFilter(("alert.raised", "alert.resolved"))


async def read_blind(js: JetStreamContext, model: str | None = None) -> list[str]:
    """Return what the open alerts in the log say of a model, or of any, that is not watched in production."""
    history = await read_history(js, model, _EVENTS)
    alerts = fold(logged.event for logged in history)
    return [alert.fact.message for alert in alerts if alert.open and alert.fact.kind == "blind"]


async def find_blind(stack: StackAddress) -> list[str]:
    """Return the same of all models, where no connection is open."""
    async with connected(stack) as client:
        return await read_blind(client.jetstream(timeout=10))

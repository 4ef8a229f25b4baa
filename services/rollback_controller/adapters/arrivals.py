"""What arrives on the bus about a model: the last message of telemetry, and of the monitor's windows."""

from collections.abc import Callable

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.envelope import nats_subject
from contracts.facts import InferenceBatch, WindowSummarised
from contracts.services import EVENTS, TELEMETRY, Stream
from services.rollback_controller.domain.record import Arriving
from shared.errors import Transient

_KINDS: dict[Arriving, tuple[Stream, str]] = {
    "telemetry": (TELEMETRY, InferenceBatch.TYPE),
    "windows": (EVENTS, WindowSummarised.TYPE),
}


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

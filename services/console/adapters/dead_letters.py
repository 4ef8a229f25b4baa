"""Reads the newest dead letters from the bus, without their content."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from contracts.services import DEADLETTER
from services.console.domain.duty_screens import DeadLetter
from shared.errors import Transient

MOST: Final = 500
"""Newest messages of the stream that are looked at."""
WAIT_S: Final = 2.0


class StoredDeadLetters:
    """The stream of dead letters.

    Args:
        js: Returns the bus, once it is connected.
    """

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    async def newest(self, models: Sequence[str] | None) -> tuple[DeadLetter, ...]:
        """Return the newest dead letters about some models, or about all (None), the newest first.

        Raises:
            Transient: The bus does not answer.
        """
        try:
            messages = await self._read()
        except (TimeoutError, nats.errors.Error) as error:
            raise Transient("bus_unavailable", f"The dead letters cannot be read ({error!r}).") from error
        letters = [_letter(message) for message in reversed(messages)]
        return tuple(letter for letter in letters if models is None or letter.model in models)

    async def _read(self) -> list[Msg]:
        js = self._js()
        state = (await js.stream_info(DEADLETTER)).state
        if not state.messages:
            return []
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=max(state.first_seq, state.last_seq - MOST + 1, 1),
            ack_policy=AckPolicy.NONE,
            inactive_threshold=30.0,
            mem_storage=True,
            headers_only=True,
        )
        subscription = await js.pull_subscribe(">", stream=DEADLETTER, config=config)
        try:
            messages = await subscription.fetch(1, timeout=WAIT_S)
            pending = messages[-1].metadata.num_pending or 0
            return messages + (await subscription.fetch(min(pending, MOST), timeout=WAIT_S) if pending else [])
        finally:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await subscription.unsubscribe()


def _letter(message: Msg) -> DeadLetter:
    headers = message.headers or {}
    deliveries = headers.get("Slipway-Deliveries", "")
    return DeadLetter(
        number=message.metadata.sequence.stream,
        at=headers.get("Slipway-At", ""),
        model=message.subject.split(".")[-2],
        service=headers.get("Slipway-Service", ""),
        subject=headers.get("Slipway-Subject", ""),
        code=headers.get("Slipway-Code", ""),
        reason=headers.get("Slipway-Reason", "")[:1000],
        deliveries=int(deliveries) if deliveries.isdigit() else 0,
    )

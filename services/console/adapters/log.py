"""Reads the bus's streams through consumers of the console's own."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from services.console.domain.logged import Logged, read_logged

RETRY_S: Final = 0.5
BATCH: Final = 200


class StreamLog:
    """Reads streams, and recreates a lost consumer.

    Args:
        js: Returns JetStream once the bus is connected.
        retry_s: Seconds to wait after an error.
    """

    def __init__(self, js: Callable[[], JetStreamContext], retry_s: float = RETRY_S) -> None:
        self._js, self._retry_s = js, retry_s
        self._readers: dict[str, _Reader] = {}

    async def identity(self, stream: str) -> tuple[str, int, int]:
        """Return a stream's creation time and its first and last sequence number; wait until the bus answers."""
        while True:
            try:
                info = await self._js().stream_info(stream)
            except (TimeoutError, nats.errors.Error) as error:
                structlog.get_logger().warning("waiting for a stream", stream=stream, error=repr(error))
                await asyncio.sleep(self._retry_s)
            else:
                created = info.created.isoformat() if info.created else ""
                return created, int(info.state.first_seq), int(info.state.last_seq)

    async def read(self, stream: str, start: int, wait_s: float) -> tuple[int, Sequence[Logged]]:
        """Return the next sequence number to read, and the entries from `start` on; none after `wait_s` seconds."""
        reader = self._readers.get(stream)
        if reader is None or reader.next != start:
            if reader is not None:
                await reader.close()
            reader = self._readers[stream] = _Reader(self._js(), stream, start, self._retry_s)
        events = await reader.read(wait_s=wait_s)
        return reader.next, events

    async def aclose(self) -> None:
        """Remove all consumers, so that the draining client does not wait for unread answers."""
        while self._readers:
            _, reader = self._readers.popitem()
            await reader.close()


class _MissedError(Exception):
    """A delivered message did not arrive; the consumer does not redeliver it."""


class _Reader:
    """Reads one stream from a sequence number on, through a consumer that is recreated after a loss."""

    def __init__(self, js: JetStreamContext, stream: str, start: int, retry_s: float) -> None:
        self.next = start
        self._js, self._stream, self._retry_s = js, stream, retry_s
        self._subscription: JetStreamContext.PullSubscription | None = None
        self._delivered = 0

    async def read(self, *, wait_s: float) -> list[Logged]:
        """Return the next entries; empty if none arrives within `wait_s` seconds."""
        events: list[Logged] = []
        try:
            await self._read_into(events, wait_s)
        except (TimeoutError, nats.errors.Error, _MissedError) as error:
            structlog.get_logger().debug("a consumer is made again", stream=self._stream, error=repr(error))
            await self.close()
            if not events:
                await asyncio.sleep(self._retry_s)
        return events

    async def _read_into(self, events: list[Logged], wait_s: float) -> None:
        """Append all available entries, or wait for one; entries appended before an error remain."""
        subscription = self._subscription or await self._subscribe()
        try:
            first = await subscription.fetch(1, timeout=wait_s)
        except TimeoutError:
            delivered = (await subscription.consumer_info()).delivered
            if delivered is not None and delivered.consumer_seq > self._delivered:
                raise _MissedError from None
            return
        self._take(first, events)
        pending = first[-1].metadata.num_pending or 0
        if pending > 0:
            self._take(await subscription.fetch(min(pending, BATCH), timeout=wait_s), events)

    def _take(self, messages: Sequence[Msg], events: list[Logged]) -> None:
        for message in messages:
            sequence = message.metadata.sequence
            if sequence.consumer != self._delivered + 1:
                raise _MissedError
            self._delivered, self.next = sequence.consumer, sequence.stream + 1
            events.append(read_logged(self._stream, sequence.stream, message.subject, message.data))

    async def _subscribe(self) -> "JetStreamContext.PullSubscription":
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self.next,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=30.0,
            mem_storage=True,
        )
        self._delivered = 0
        self._subscription = await self._js.pull_subscribe(">", stream=self._stream, config=config)
        return self._subscription

    async def close(self) -> None:
        """Remove the consumer."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await subscription.unsubscribe()

"""Follows routes and drills on the bus, and publishes telemetry there."""

import asyncio

import nats.errors
import structlog

from contracts.facts import InferenceBatch
from contracts.vocabulary import Environment
from shared.errors import Transient
from shared.messaging.bus import Bus, Emit, publish_event
from shared.runtime.service import connect_with_retries
from shared.storage.kv import Bucket, M, OnChange, OnSnapshot

_RETRY_S = 0.5


class BusConnection:
    """The gateway's connection to the bus, which may be unavailable at any time (implements `ports.TelemetrySink`)."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._has_connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Return whether the client is connected to the bus now."""
        return self._has_connected.is_set() and bool(self._bus.client.is_connected)

    async def connect(self) -> None:
        """Connect to the bus, and retry until it succeeds."""
        await connect_with_retries(self._bus)
        self._has_connected.set()

    async def follow(
        self, bucket: str, record: type[M], apply: OnChange[M], note_bucket: OnSnapshot | None = None
    ) -> None:
        """Call `apply` with every record and every change, for ever; after an error it starts again."""
        await self._has_connected.wait()
        records = Bucket(self._bus.js, bucket, record, service=self._bus.service)
        while True:
            try:
                await records.follow(self._bus.client, apply, note_bucket)
            except Exception as error:  # noqa: BLE001 - a gateway that stops following routes would never roll back
                structlog.get_logger().error(
                    "a bucket cannot be followed, will be tried again", bucket=bucket, error=repr(error)
                )
            await asyncio.sleep(_RETRY_S)

    async def publish(self, batch: InferenceBatch, *, model: str, environment: Environment, batch_id: str) -> None:
        """Publish a batch of telemetry (see `ports.TelemetrySink`)."""
        if not self.connected:
            raise Transient("bus_unavailable", "The bus is not connected.")
        emit = Emit(batch, model=model, environment=environment, id=batch_id, correlation_id=batch_id)
        try:
            await publish_event(self._bus.js, self._bus.envelope(emit))
        except (nats.errors.Error, TimeoutError) as error:
            raise Transient("bus_unavailable", f"Telemetry could not be published: {error!r}.") from error

    async def close(self) -> None:
        """Disconnect from the bus."""
        if self._has_connected.is_set():
            await self._bus.broker.stop()

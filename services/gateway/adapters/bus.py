"""The gateway on the bus: follows routes and drills, publishes telemetry."""

import asyncio

import nats.errors
import structlog

from contracts.facts import InferenceBatch
from contracts.vocabulary import Environment
from shared.errors import Transient
from shared.messaging.bus import Bus, Emit, publish_event
from shared.runtime.service import connect_patiently
from shared.storage.kv import Bucket, M, OnChange, OnLook

_RETRY_S = 0.5


class BusLink:
    """The bus as the gateway uses it; it may be away at any time, for any time (implements `ports.TelemetrySink`)."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._joined = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Return whether the bus answers at this moment, as far as the client knows."""
        return self._joined.is_set() and bool(self._bus.client.is_connected)

    async def connect(self) -> None:
        """Connect, waiting for the bus as long as it takes."""
        await connect_patiently(self._bus)
        self._joined.set()

    async def follow(self, bucket: str, record: type[M], apply: OnChange[M], looked: OnLook | None = None) -> None:
        """Tell `apply` every record and every change, for ever. Whatever goes wrong, what was told stays told."""
        await self._joined.wait()
        records = Bucket(self._bus.js, bucket, record, service=self._bus.service)
        while True:
            try:
                await records.follow(self._bus.client, apply, looked)
            except Exception as error:  # noqa: BLE001 - a gateway that stops following would never roll back
                structlog.get_logger().error("following failed", bucket=bucket, error=repr(error))
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
        """Leave the bus."""
        if self._joined.is_set():
            await self._bus.broker.stop()

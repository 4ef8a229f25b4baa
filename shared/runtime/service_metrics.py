"""Metrics of every service: its build, the lag of its consumers, the expiry of certificates."""

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import nats.errors
import structlog
from cryptography import x509

from contracts import metrics as m
from contracts.services import TELEMETRY
from contracts.version import VERSION
from shared.messaging.bus import Bus
from shared.runtime.metrics import gauge
from shared.runtime.settings import Connection

EVERY_S: Final = 10.0
CERTIFICATES_EVERY_S: Final = 3600.0
_ANSWER_S: Final = 5.0


class ServiceMetrics:
    """The gauges of one service. A gauge that cannot be read keeps its last value, logged once."""

    def __init__(self, bus: Bus, connection: Connection, certificates: dict[str, Path | None] | None = None) -> None:
        """Export the build; the rest follows with `keep_current`.

        Args:
            bus: The service's connection, with the registry of metrics.
            connection: Addresses and certificate authorities of bus and store.
            certificates: Files of further certificates by name; None for an unused one.
        """
        self._bus, self._connection = bus, connection
        files = {"bus-authority": connection.nats_ca, "store-authority": connection.s3_ca, **(certificates or {})}
        self._files = {name: path for name, path in files.items() if path is not None}
        self._served = frozenset(certificates or {})
        self._failed: set[str] = set()
        self._pending = gauge(m.CONSUMER_PENDING, bus.metrics)
        self._unacknowledged = gauge(m.CONSUMER_UNACKNOWLEDGED, bus.metrics)
        self._shed = gauge(m.TELEMETRY_SHED, bus.metrics)
        self._read_at = gauge(m.CONSUMERS_READ, bus.metrics)
        self._expiry = gauge(m.CERTIFICATE_EXPIRY, bus.metrics)
        gauge(m.BUILD_INFO, bus.metrics).labels(bus.service, VERSION).set(1)

    async def keep_current(self) -> None:
        """Update the gauges periodically until cancelled."""
        certificates_at_s = self._bus.clock.monotonic()
        while True:
            now_s = self._bus.clock.monotonic()
            if now_s >= certificates_at_s:
                certificates_at_s = now_s + CERTIFICATES_EVERY_S
                await self.read_certificates()
            await self.read_consumers()
            await asyncio.sleep(EVERY_S)

    async def read_consumers(self) -> None:
        """Export the lag of the service's consumers, and telemetry dropped before receipt; redeliveries hide some."""
        streams = {durable: consumption.stream for durable, consumption in self._bus.consumptions.items()}
        if not streams:
            return
        try:
            last = (await self._bus.js.stream_info(TELEMETRY)).state.last_seq if TELEMETRY in streams.values() else 0
            for durable, stream in streams.items():
                info = await self._bus.js.consumer_info(stream, durable, timeout=_ANSWER_S)
                self._pending.labels(durable).set(info.num_pending or 0)
                self._unacknowledged.labels(durable).set(info.num_ack_pending or 0)
                if stream == TELEMETRY:
                    last -= (info.delivered.consumer_seq if info.delivered else 0) + (info.num_pending or 0)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            self._note_failure("consumers", error)
        else:
            self._shed.set(max(0, last))
            self._read_at.set(self._bus.clock.now().timestamp())
            self._failed.discard("consumers")

    async def read_certificates(self) -> None:
        """Export the expiry of certificates in files, and of those presented by bus and store."""
        for name, path in list(self._files.items()):
            try:
                text = await asyncio.to_thread(path.read_bytes)
                expires_at = min(item.not_valid_after_utc for item in x509.load_pem_x509_certificates(text))
                self._expiry.labels(name).set(expires_at.timestamp())
                if name in self._served:
                    del self._files[name]  # a server shows what it has read at its start, whatever is in the file now
            except (OSError, ValueError) as error:
                self._note_failure(name, error)
        for name, address in self._servers().items():
            try:
                self._expiry.labels(name).set((await _presented(*address)).timestamp())
            except (OSError, ssl.SSLError, TimeoutError, ValueError) as error:
                self._note_failure(name, error)

    def _servers(self) -> dict[str, tuple[str, int, Path]]:
        """Return the TLS addresses by name, each with the authority that verifies it."""
        addresses, connection = {}, self._connection
        if connection.nats_ca is not None:
            url = urlsplit(connection.nats_url.split(",")[0])
            addresses["bus"] = (url.hostname or "", url.port or 4222, connection.nats_ca)
        if connection.s3_ca is not None and connection.s3_credentials is not None:
            host, _, port = connection.s3_endpoint.rpartition(":")
            addresses["store"] = (host.strip("[]"), int(port), connection.s3_ca)
        return addresses

    def _note_failure(self, name: str, error: BaseException) -> None:
        if name not in self._failed:
            self._failed.add(name)
            structlog.get_logger().warning("a metric cannot be read", about=name, error=repr(error))


async def _presented(host: str, port: int, authority: Path) -> datetime:
    """Return the expiry of a server's certificate."""
    context = ssl.create_default_context(cafile=str(authority))
    async with asyncio.timeout(_ANSWER_S):
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        expires = (writer.get_extra_info("peercert") or {}).get("notAfter", "")
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(expires), UTC)
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()

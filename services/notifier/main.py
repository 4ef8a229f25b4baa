"""Starts the notifier: the only place where its parts are put together."""

import asyncio

from services.notifier.adapters.dead_letters import StoredDeadLetters
from services.notifier.adapters.http import HttpSender
from services.notifier.app import SERVICE, build, build_sweeper
from services.notifier.domain.record import ModelNotices
from services.notifier.metrics import NotifierMetrics
from services.notifier.settings import NotifierSettings, read_receivers
from shared.messaging.bus import Bus
from shared.messaging.credentials import require_identity
from shared.messaging.event_log import LoggedPublisher
from shared.messaging.records import RecordStore
from shared.runtime.clock import SystemClock
from shared.runtime.program_imports import finish_imports
from shared.runtime.service import connect_with_retries, serve
from shared.runtime.settings import Connection, read_settings
from shared.runtime.telemetry import configure_logging
from shared.storage.kv import Bucket


async def run(connection: Connection, settings: NotifierSettings) -> None:
    """Connect, build the service and serve until SIGTERM."""
    clock, destinations = SystemClock(), read_receivers(settings.receivers)
    receivers = tuple(destination.receiver for destination in destinations)
    bus = Bus(connection, SERVICE, clock)
    metrics = NotifierMetrics(bus.metrics, tuple(receiver.name for receiver in receivers), clock)
    await connect_with_retries(bus)
    sender = HttpSender(destinations, settings, clock)
    notifier = build(
        bus,
        records=RecordStore(
            "notifications",
            Bucket(bus.js, "notifications", ModelNotices, service=SERVICE),
            LoggedPublisher(bus),
            service=SERVICE,
            note=metrics.note,
        ),
        receivers=receivers,
        sender=sender,
        letters=StoredDeadLetters(bus),
        metrics=metrics,
        settings=settings,
        clock=clock,
    )
    try:
        await serve(bus, connection, background=[build_sweeper(notifier, settings).run])
    finally:
        await sender.close()


def main() -> None:
    """Read the settings from the environment and run the notifier."""
    finish_imports()
    connection = require_identity(read_settings(Connection), SERVICE)
    configure_logging(SERVICE, connection.log_level)
    asyncio.run(run(connection, read_settings(NotifierSettings)))


if __name__ == "__main__":
    main()

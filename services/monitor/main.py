"""Starts the monitor: the only place where its parts are put together."""

import asyncio

from services.monitor.adapters.bus_clock import BusClock
from services.monitor.adapters.reports import EvidentlyReports
from services.monitor.adapters.store import StoredReferences
from services.monitor.app import SERVICE, Meter, Monitor, build
from services.monitor.domain.record import Watch
from services.monitor.settings import MonitorSettings
from shared.messaging.bus import Bus
from shared.messaging.event_log import LoggedPublisher
from shared.messaging.ledger import Ledger
from shared.runtime.clock import SystemClock
from shared.runtime.service import connect_patiently, serve
from shared.runtime.settings import Connection
from shared.runtime.telemetry import configure_logging
from shared.storage.blobs import Store
from shared.storage.kv import Bucket


async def run(connection: Connection, settings: MonitorSettings) -> None:
    """Connect, subscribe and serve until told to stop."""
    bus = Bus(connection, SERVICE, SystemClock())
    await connect_patiently(bus)
    clock = BusClock(SystemClock(), lambda: bus.js)
    store = Store(connection)
    monitor = Monitor(
        ledger=Ledger(
            Bucket(bus.js, "alerts", Watch, service=SERVICE),
            LoggedPublisher(bus),
            lambda model, environment: Watch(model=model, environment=environment),
            service=SERVICE,
        ),
        references=StoredReferences(store),
        reports=EvidentlyReports(store, connection.work_dir(SERVICE), timeout_s=settings.report_timeout_s),
        clock=clock,
        rules=settings.rules(),
        own_offset_s=lambda: clock.offset_s,
        meter=Meter(bus.metrics),
    )
    build(bus, monitor=monitor)

    async def sweeping() -> None:
        await monitor.keep_sweeping(settings.sweep_s)

    async def comparing() -> None:
        await clock.keep_comparing(settings.compare_clocks_s)

    await serve(bus, connection, background=[sweeping, comparing])


def main() -> None:
    """Run the monitor."""
    connection = Connection()
    configure_logging(SERVICE, connection.log_level)
    asyncio.run(run(connection, MonitorSettings()))


if __name__ == "__main__":
    main()

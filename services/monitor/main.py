"""Composition root of the monitor: `python -m services.monitor.main`."""

from services.monitor.adapters.alert_log import AlertLog
from services.monitor.adapters.reports import EvidentlyReports
from services.monitor.adapters.store import SignedPolicies, StoredReferences
from services.monitor.app import SERVICE, build, build_sweeper
from services.monitor.domain.record import MonitorState
from services.monitor.metrics import MonitorMetrics
from services.monitor.routed import RoutedModels, build_routed_sweeper
from services.monitor.settings import MonitorSettings
from shared.messaging.bus import Bus
from shared.messaging.bus_clock import BusClock
from shared.messaging.records import RecordStore
from shared.runtime.clock import SystemClock
from shared.runtime.service import check_sandbox, connect_with_retries, run_service, serve
from shared.runtime.settings import Connection
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from shared.storage.route_buckets import RouteBuckets


async def run(connection: Connection, settings: MonitorSettings) -> None:
    """Connect, build the service and serve until SIGTERM."""
    await check_sandbox(connection)
    clock = BusClock(SystemClock(), lambda: bus.js, "alerts")
    bus = Bus(connection, SERVICE, clock)
    await connect_with_retries(bus)
    await clock.try_comparing()  # before the first alert: one with an old time moves no traffic
    store = Store(connection)
    alerts = Bucket(bus.js, "alerts", MonitorState, service=SERVICE)
    metrics = MonitorMetrics(bus.metrics)
    monitor = build(
        bus,
        states=RecordStore("alerts", alerts, bus, service=SERVICE, note=metrics.note),
        references=StoredReferences(store),
        reports=EvidentlyReports(store, connection.work_dir(SERVICE), timeout_s=settings.report_timeout_s),
        settings=settings,
        metrics=metrics,
        clock=clock,
    )
    sweeper = build_sweeper(monitor, settings)
    routes, alert_log = RouteBuckets(lambda: bus.js, SERVICE), AlertLog(lambda: bus.js, SERVICE)
    routed = RoutedModels(monitor, routes, SignedPolicies(store, connection), alert_log)

    await serve(bus, connection, background=[sweeper.run, build_routed_sweeper(routed).run, clock.keep_comparing])


def main() -> None:
    """Read the settings from the environment and run the monitor."""
    run_service(SERVICE, MonitorSettings, run)


if __name__ == "__main__":
    main()

"""Starts the rollback-controller: the only place where its parts are put together."""

import asyncio

from services.rollback_controller.adapters.alerts import LoggedAlerts
from services.rollback_controller.adapters.gateway import GatewayTraffic
from services.rollback_controller.adapters.kv import KvDrills, KvRoutes
from services.rollback_controller.adapters.triton import TritonProbe
from services.rollback_controller.app import SERVICE, Controller, build
from services.rollback_controller.domain.record import Book
from services.rollback_controller.rehearsal import Rehearsal
from services.rollback_controller.settings import RollbackControllerSettings
from shared.messaging.bus import Bus
from shared.messaging.event_log import LoggedPublisher
from shared.messaging.ledger import Ledger
from shared.runtime.clock import SystemClock
from shared.runtime.service import connect_patiently, serve
from shared.runtime.settings import Connection
from shared.runtime.telemetry import configure_logging
from shared.serving.inference import Channels
from shared.storage.kv import Bucket


async def run(connection: Connection, settings: RollbackControllerSettings) -> None:
    """Connect, subscribe and serve until told to stop."""
    clock, channels = SystemClock(), Channels()
    bus = Bus(connection, SERVICE, clock)
    await connect_patiently(bus)
    ledger = Ledger(
        Bucket(bus.js, "rollbacks", Book, service=SERVICE),
        LoggedPublisher(bus),
        lambda model, environment: Book(model=model, environment=environment),
        service=SERVICE,
    )
    routes, drills = KvRoutes(lambda: bus.js), KvDrills(lambda: bus.js)
    controller = Controller(
        ledger=ledger,
        routes=routes,
        drills=drills,
        alerts=LoggedAlerts(lambda: bus.js),
        probe=TritonProbe(channels, deadline_s=settings.probe_s),
        clock=clock,
        rules=settings.rules(),
    )
    traffic = GatewayTraffic(
        settings.gateway_url,
        rps=settings.rehearsal_rps,
        tokens=settings.rehearsal_tokens,
        timeout_s=settings.rehearsal_detect_s,
    )
    rehearsal = Rehearsal(
        bus=bus, ledger=ledger, routes=routes, drills=drills, traffic=traffic, clock=clock, pace=settings.pace()
    )
    build(bus, controller=controller, rehearsal=rehearsal)

    async def sweeping() -> None:
        await controller.keep_sweeping(settings.sweep_s)

    try:
        await serve(bus, connection, background=[sweeping, lambda: routes.follow(bus.client)])
    finally:
        await channels.close()


def main() -> None:
    """Run the rollback-controller."""
    connection = Connection()
    configure_logging(SERVICE, connection.log_level)
    asyncio.run(run(connection, RollbackControllerSettings()))


if __name__ == "__main__":
    main()

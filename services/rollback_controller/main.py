"""Composition root of the rollback-controller: `python -m services.rollback_controller.main`."""

from services.rollback_controller.adapters.gateway import GatewayTraffic
from services.rollback_controller.adapters.kv import KvDrills, KvRoutes
from services.rollback_controller.adapters.log import LoggedAlerts
from services.rollback_controller.adapters.probes import STANDBYS_EVERY_S, RememberedProbe, StandbyProbes, TritonProbe
from services.rollback_controller.adapters.provenance import proofs_by_settings
from services.rollback_controller.app import build
from services.rollback_controller.controller import SERVICE
from services.rollback_controller.domain.record import RollbackState
from services.rollback_controller.settings import RollbackControllerSettings
from services.rollback_controller.states import RollbackStates
from shared.messaging.bus import Bus
from shared.messaging.bus_clock import BusClock
from shared.messaging.records import RecordStore
from shared.runtime.clock import SystemClock
from shared.runtime.service import connect_with_retries, run_service, serve
from shared.runtime.settings import Connection
from shared.runtime.sweeper import Sweeper
from shared.runtime.team_list import TeamList
from shared.serving.channels import Channels
from shared.storage.kv import Bucket


async def run(connection: Connection, settings: RollbackControllerSettings) -> None:
    """Connect, subscribe and serve until stopped."""
    clock = BusClock(SystemClock(), lambda: bus.js, "rollbacks")
    channels, bus = Channels(connection.server_keys), Bus(connection, SERVICE, clock)
    await connect_with_retries(bus)
    await clock.try_comparing()  # before the first message: by a fast clock, alerts and orders would be expired
    states = RollbackStates(
        RecordStore("rollbacks", Bucket(bus.js, "rollbacks", RollbackState, service=SERVICE), bus, service=SERVICE)
    )
    routes = KvRoutes(lambda: bus.js)
    probe = RememberedProbe(TritonProbe(channels, deadline_s=settings.probe_s), clock)
    controller = build(
        bus,
        states=states,
        routes=routes,
        drills=KvDrills(lambda: bus.js),
        alerts=LoggedAlerts(lambda: bus.js),
        probe=probe,
        traffic=_traffic(settings),
        proofs=proofs_by_settings(connection, clock),
        teams=TeamList(connection.teams, clock).read,  # optional: automatic rollbacks work without
        settings=settings,
        clock=clock,
    )

    sweeper = Sweeper("rollbacks", states.keys, controller.sweep, every_s=settings.sweep_s)
    standby = StandbyProbes(states, routes, probe)
    prober = Sweeper("standbys", standby.keys, standby.sweep, every_s=STANDBYS_EVERY_S)
    background = [sweeper.run, prober.run, clock.keep_comparing, lambda: routes.follow(bus.client)]
    try:
        await serve(bus, connection, background=background)
    finally:
        await channels.close()


def _traffic(settings: RollbackControllerSettings) -> GatewayTraffic:
    """Return the client that sends rehearsal requests."""
    return GatewayTraffic(
        settings.gateway_url,
        settings.gateway_key,
        settings.gateway_ca,
        rps=settings.rehearsal_rps,
        tokens=settings.pace.load.tokens,
        timeout_s=settings.rehearsal_detect_s,
    )


def main() -> None:
    """Read the settings and run the rollback-controller."""
    run_service(SERVICE, RollbackControllerSettings, run, uses_store=False)  # rollbacks need no store


if __name__ == "__main__":
    main()

"""How each service is put together in the world: as its `main` does it, on the bus in memory."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from contracts.attachments import Attachment
from contracts.policy import ReleasePolicy
from contracts.routes import Route
from contracts.runtimes import DEFAULT_RUNTIME, FleetRuntimes
from services.monitor import app as monitor_app
from services.monitor.adapters.alert_log import AlertLog
from services.monitor.domain.record import MonitorState
from services.monitor.metrics import MonitorMetrics
from services.monitor.routed import RoutedModels, build_routed_sweeper
from services.monitor.settings import MonitorSettings
from services.registry import app as registry_app
from services.registry.adapters.inbox import StreamInbox
from services.registry.domain.admission import AllowedLocations
from services.registry.domain.announcements import Announcements
from services.registry.domain.record import Release
from services.registry.domain.versions import ModelRecord
from services.registry.ports import Ports
from services.registry.settings import RegistrySettings
from services.rollback_controller import app as rollback_app
from services.rollback_controller.adapters.kv import KvDrills, KvRoutes
from services.rollback_controller.adapters.log import LoggedAlerts
from services.rollback_controller.adapters.probes import STANDBYS_EVERY_S, RememberedProbe, StandbyProbes
from services.rollback_controller.domain.record import RollbackState
from services.rollback_controller.settings import RollbackControllerSettings
from services.rollback_controller.states import RollbackStates
from services.server_manager import app as fleet_app
from services.server_manager.adapters.kv_state import KvAttachments, KvLeadership, KvRecords, KvRuntimes
from services.server_manager.adapters.kv_state import KvRoutes as FleetRoutes
from services.server_manager.attached_models import AttachedModels
from services.server_manager.domain.records import Leader, Servers
from services.server_manager.domain.servable_variants import Hardware
from services.server_manager.fleet_state import FleetState
from services.server_manager.known_routes import KnownRoutes
from services.server_manager.main import follow_routes
from services.server_manager.settings import ServerManagerSettings
from shared.messaging.bus_clock import BusClock
from shared.runtime.sweeper import Sweeper
from shared.storage.kv import Bucket
from shared.storage.route_buckets import RouteBuckets
from tests.kit import fakes_registry as k
from tests.kit.slow_engine import EngineClient
from tests.kit.wiring import Unwired
from tests.world.gateway import start_gateway
from tests.world.process import Process
from tests.world.workers import start_benchmarker, start_evaluator, start_merger, start_quantiser

if TYPE_CHECKING:
    from tests.world.world import World

Start = Callable[["World", Process], Any]
REGISTRY = RegistrySettings(sweep_s=8.0)
ROLLBACK = RollbackControllerSettings(sweep_s=4.0, production_drills=k.MODEL)
MONITOR = MonitorSettings(sweep_s=4.0)
FLEET = ServerManagerSettings(
    memory_budget_bytes=1000, overhead_bytes=80, linger_s=20.0, tick_s=6.0, probe_interval_s=15.0
)
"""Every target weighs 100 and so reserves 200: five fit. Loops are slower than by default: each look costs time."""


async def _bus_clock(process: Process, bucket: str) -> BusClock:
    """Let a process go by the time of the bus."""
    clock = BusClock(process.clock, lambda: process.bus.js, bucket, process.clock.monotonic)
    process.bus.clock = clock
    await clock.try_comparing()
    return clock


async def start_registry(world: "World", process: Process) -> None:
    """Start the registry."""
    clock = await _bus_clock(process, "releases")
    ports = Ports(
        releases=process.store("releases", Release),
        models=process.store("releases", ModelRecord),
        announcements=process.store("releases", Announcements),
        inbox=StreamInbox(process.js),  # type: ignore[arg-type]
        policies=Bucket(process.bus.js, "policies", ReleasePolicy),
        routes=Bucket(process.bus.js, "routes", Route),
        attachments=Bucket(process.bus.js, "attachments", Attachment),
        artifacts=process.port(
            world.artifacts, "find_base", "verify", "models", "versions_of", "put_version", "put_deployment"
        ),
    )
    registry = registry_app.build(
        process.bus, ports=ports, locations=AllowedLocations(bucket="slipway"), settings=REGISTRY, clock=clock
    )
    process.run(*(sweeper.run for sweeper in registry.sweepers), clock.keep_comparing)


async def start_server_manager(world: "World", process: Process) -> None:
    """Start server-manager."""
    records = partial(KvRecords, lambda: process.bus.js)
    holder = process.name
    lead = KvLeadership(records("servers", Leader), FLEET.fleet, holder, process.clock, world.terms)
    process.lead = lead  # type: ignore[attr-defined]  # `EngineClient` asks it
    routes = records("routes", Route)
    client = EngineClient(world.engine, process)
    engines = {DEFAULT_RUNTIME: process.port(client, "index", "load", "unload", "probe", place="engine")}
    manager = fleet_app.build(
        process.bus,
        engines=engines,
        attached=AttachedModels(
            engines, KvAttachments(records("attachments", Attachment)), lambda _model: world.attached.engine()
        ),
        artifacts=process.port(world.copies, "materialise", "describe"),
        state=FleetState(process.store("servers", Servers, decides_again=True), FLEET.fleet),
        routes=KnownRoutes(FleetRoutes(routes), world.memory),
        lead=lead,
        view=KvRuntimes(records("servers", FleetRuntimes), FLEET.fleet),
        hardware=Hardware(),
        settings=FLEET,
        clock=process.clock,
    )
    process.run(manager.run, lambda: follow_routes(process.bus, routes, manager))


async def start_rollback_controller(world: "World", process: Process) -> None:
    """Start the rollback-controller."""
    js = lambda: process.bus.js  # noqa: E731
    clock = await _bus_clock(process, "rollbacks")
    states, routes = RollbackStates(process.store("rollbacks", RollbackState)), KvRoutes(js)
    probe = RememberedProbe(process.port(world.probe, "answers", place="engine"), clock)
    controller = rollback_app.build(
        process.bus,
        states=states,
        routes=routes,
        drills=KvDrills(js),
        alerts=LoggedAlerts(js),
        probe=probe,
        traffic=world.traffic_of(process),
        proofs=process.port(world.proofs, "policy", "attest_rehearsal"),
        teams=tuple,
        settings=ROLLBACK,
        clock=clock,
    )
    standby = StandbyProbes(states, routes, probe)
    process.run(
        Sweeper("rollbacks", states.keys, controller.sweep, every_s=ROLLBACK.sweep_s).run,
        Sweeper("standbys", standby.keys, standby.sweep, every_s=STANDBYS_EVERY_S).run,
        clock.keep_comparing,
        lambda: routes.follow(process.bus.client),
    )


async def start_monitor(world: "World", process: Process) -> None:
    """Start the monitor."""
    clock = await _bus_clock(process, "alerts")
    js = lambda: process.bus.js  # noqa: E731
    metrics = MonitorMetrics(process.bus.metrics)
    monitor = monitor_app.build(
        process.bus,
        states=process.store("alerts", MonitorState, note=metrics.note),
        references=process.port(world.references, "latest", "put", "rows"),
        reports=Unwired(),  # type: ignore[arg-type]  # no answer has a text here, so none drifts
        settings=MONITOR,
        metrics=metrics,
        clock=clock,
    )
    routed = RoutedModels(
        monitor, RouteBuckets(js, "monitor"), process.port(world.policies, "read"), AlertLog(js, "monitor")
    )
    process.run(monitor_app.build_sweeper(monitor, MONITOR).run, build_routed_sweeper(routed).run, clock.keep_comparing)


STARTS: dict[str, Start] = {
    "registry": start_registry,
    "server-manager": start_server_manager,
    "rollback-controller": start_rollback_controller,
    "monitor": start_monitor,
    "gateway": start_gateway,
    "merger": start_merger,
    "quantiser": start_quantiser,
    "benchmarker": start_benchmarker,
    "evaluator": start_evaluator,
}


async def keep_running(world: "World", seat: str) -> None:
    """Keep a process of a service running: after each death there is a new one some seconds later."""
    number, start = 0, STARTS[world.fate.seats[seat]]
    while True:
        number += 1
        process = Process(world, seat, number)
        world.processes[seat] = process
        world.tell(f"{process.name} starts")
        process.spawn(start(world, process))
        await process.ended.wait()
        await process.close()
        await asyncio.sleep(world.fate.restart_s())

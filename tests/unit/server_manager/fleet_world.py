"""server-manager and everything around it, in virtual time: processes die and start, the engine and the bus go on."""

import asyncio
from pathlib import Path

from contracts import facts as cf
from contracts.envelope import Event
from contracts.runtimes import DEFAULT_RUNTIME
from contracts.services import SERVICES
from services.server_manager.app import SERVICE, build
from services.server_manager.attached_models import AttachedModels
from services.server_manager.domain.reconcile import Phase, plan_production, production_of
from services.server_manager.domain.records import Servers
from services.server_manager.domain.servable_variants import Hardware
from services.server_manager.fleet_state import FleetState
from services.server_manager.known_routes import KnownRoutes
from services.server_manager.settings import RuntimeEndpoint, ServerManagerSettings, ServingEndpoint
from shared.errors import Transient
from shared.messaging.records import RecordStore
from shared.storage.record_format import parse
from tests.kit.fake_bus import FakeBus, Life, Message, Streams
from tests.kit.fakes_serving import (
    FakeArtifacts,
    FakeAttached,
    FakeAttachments,
    FakeLead,
    FakeLease,
    FakeRoutes,
    FakeRuntimesView,
    FaultyBucket,
    records_of,
)
from tests.kit.records import MemoryPublisher
from tests.kit.slow_engine import EngineClient, Memory, SlowEngine
from tests.kit.virtual_time import VirtualClock
from tests.unit.server_manager.factories import START, deployable

SILENT_S = 53.0
"""So long the real bus tries again to publish a fact."""
MODEL = "bot"
SETTINGS = ServerManagerSettings(
    memory_budget_bytes=1000, overhead_bytes=80, linger_s=20.0, order_deadline_s=120.0, tick_s=2.0
)
"""Every target weighs 100 and so reserves 200: five fit."""


class SlowLog(MemoryPublisher):
    """A log of facts that may keep silent for as long as its client tries again."""

    silent = False

    async def publish(self, emit):
        if self.silent:
            await asyncio.sleep(SILENT_S)
            raise Transient("bus_unavailable", f"no answer within {SILENT_S:g} s")
        return await super().publish(emit)


class InFlight(set[int]):
    """The messages that one process handles; none of another's may be begun."""

    def __init__(self, processes: "list[Process]") -> None:
        super().__init__()
        self._processes = processes

    def __contains__(self, message: object) -> bool:
        return any(set.__contains__(process.bus.in_flight, message) for process in self._processes)


class SharedBus(FakeBus):
    """The bus of one of several processes: what one handles is not delivered to another."""

    def __init__(self, service, streams, log, life, processes: "list[Process]") -> None:
        super().__init__(service, streams, log, life)
        self._in_flight = self.in_flight = InFlight(processes)


class Process:
    """One process of server-manager: all that it asks of the outside can be its last step."""

    def __init__(self, world: "FleetWorld", kill_at=None) -> None:
        self.world = world
        self.life = life = Life(kill_at)
        self.clock = VirtualClock(START)
        self.lead = FakeLead(
            world.lease, self.clock, port=lambda port: self.port(port, "get", "create", "update", "keys")
        )
        log = self.port(world.log, "publish", "was_published")
        records = self.port(records_of(Servers, world.bucket), "get", "create", "update", "keys")
        store = RecordStore("servers", records, log, service=SERVICE, jitter=lambda: 0.5, decides_again=True)
        self.bus = SharedBus(SERVICE, world.streams, log, life, world.processes)
        engines = {
            name: self.port(EngineClient(engine, self), "index", "load", "unload", "probe")
            for name, engine in world.engines.items()
        }
        self.manager = build(
            self.bus,
            engines=engines,
            attached=AttachedModels(engines, FakeAttachments(), lambda _model: FakeAttached()),
            view=FakeRuntimesView(),
            artifacts=self.port(world.artifacts, "materialise", "describe", "keep_only"),
            state=FleetState(store, "main"),
            routes=KnownRoutes(self.port(world.routes, "all", "edit"), world.memory),
            lead=self.port(self.lead, "hold", "confirm", "release"),
            hardware=Hardware(),
            settings=world.settings,
            clock=self.clock,
        )

    def start(self) -> None:
        """Begin to reconcile and to handle facts."""
        self.life.spawn(self.manager.run())
        self.bus.start()

    def port(self, port, *names):
        """Return a port whose methods are steps of this process."""
        return self.life.mortal(port, *names)


class FleetWorld:
    """What outlives the processes, and the processes."""

    def __init__(self, folder: Path, *runtimes: str, more: tuple[str, ...] = ()) -> None:
        """Set up the world; its fleet has the runtime `default` and these, and more endpoints of the default one."""
        self.clock = VirtualClock(START)
        self.streams = Streams()
        self.bucket, self.log = FaultyBucket(), SlowLog("server-manager", now_s=self.clock.monotonic)
        self.routes, self.memory = FakeRoutes(), Memory()
        self.lease = FakeLease(self.bucket)
        self.artifacts = FakeArtifacts(folder)
        self.engines = {name: SlowEngine(self) for name in (DEFAULT_RUNTIME, *runtimes, *more)}
        self.engine = self.engines[DEFAULT_RUNTIME]
        for number, engine in enumerate(self.engines.values(), 1):
            engine.endpoint = f"127.0.0.1:{number}"
        endpoints = {
            name: RuntimeEndpoint(
                triton_grpc=self.engines[name].endpoint, agent_grpc=f"agent-{name}:1", repository=folder / name
            )
            for name in runtimes
        }
        others = {
            name: ServingEndpoint(
                triton_grpc=self.engines[name].endpoint, agent_grpc=f"agent-{name}:1", repository=folder / name
            )
            for name in more
        }
        self.settings = SETTINGS.model_copy(update={"runtimes": endpoints, "endpoints": others})
        self.violations: list[str] = []
        self.published: list[Event] = []
        self.acts: list[tuple[int, str]] = []
        """The term and the holder of each request that loaded or unloaded."""
        self.spoilt = {}
        """Routes whose bytes cannot be read for now."""
        self.deaths = 0
        self.processes: list[Process] = []

    # -- the processes ----------------------------------------------------------------------------------------------

    def start(self, kill_at=None) -> Process:
        """Start a process; it dies at its step number `kill_at`."""
        process = Process(self, kill_at)
        self.processes.append(process)
        process.start()
        return process

    async def live_through(self, story, *kills, begins_s):
        """Keep server-manager running, which dies at these steps, and let the story follow after some seconds."""
        running = [asyncio.create_task(self.keep_running(*kills)), asyncio.create_task(self.watch())]
        await asyncio.sleep(begins_s)
        await story(self)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self.stop()
        assert self.violations == []

    async def keep_running(self, *kills) -> None:
        """Start a process, and a new one a second after it died; the n-th dies at step `kills[n]`."""
        left = list(kills)
        while True:
            process = self.start(left.pop(0) if left else None)
            await process.life.ended.wait()
            await process.life.close()
            self.processes.remove(process)
            self.deaths += 1
            for other in self.processes:
                other.bus.deliver()
            await asyncio.sleep(1.0)

    async def watch(self) -> None:
        """Note it when two processes may act at the same moment, for ever.

        Where the record of the lease is lost, its holder does not know that at once; the term beside the engine, which is
        read before each request, stops it.
        """
        while True:
            leads = [process.lead for process in self.processes]
            holders = [lead.holder for lead in leads if lead.valid() and not lead.superseded()]
            if len(holders) > 1:
                self.violations.append(f"{holders} hold the lease at {self.clock.monotonic():g} s")
            await asyncio.sleep(0.1)

    @property
    def process(self) -> Process:
        """The process that leads, or else the one that was started last."""
        leading = [process for process in self.processes if process.lead.valid()]
        return (leading or self.processes)[-1]

    async def stop(self) -> None:
        """End all processes; raise what their handlers raised by mistake."""
        for process in self.processes:
            await process.life.close()
        if self.streams.defects:
            raise self.streams.defects[0]

    def note_act(self, process: Process) -> None:
        """Note a request that loads or unloads; a violation if a later holder has acted before."""
        leader = process.lead.term
        if self.acts and leader < self.acts[-1][0]:
            self.violations.append(f"{process.lead.holder} acted under term {leader} after term {self.acts[-1][0]}")
        self.acts.append((leader, process.lead.holder))

    # -- facts and failures -----------------------------------------------------------------------------------------

    def publish(self, event: Event) -> Event:
        """Publish a fact of another service."""
        event = event.model_copy(update={"time": self.clock.now()})
        assert (type(event.data), "production") in SERVICES[SERVICE].reads
        self.published.append(event)
        self.streams.put(Message(len(self.published), event, self.clock.now()))
        for process in self.processes:
            process.bus.deliver()
        return event

    # -- what must hold ---------------------------------------------------------------------------------------------

    def spoil_route(self) -> None:
        """Damage the bytes of the route, or restore them."""
        if MODEL in self.spoilt:
            self.routes.routes[MODEL] = self.spoilt.pop(MODEL)
        elif MODEL in self.routes.routes:
            self.spoilt[MODEL] = self.routes.routes[MODEL]
            self.routes.routes.put(MODEL, b"{")

    def stored_routes(self):
        """Return the routes in the bucket, also those that cannot be read for now."""
        return {model: self.spoilt.get(model) or self.routes.routes[model] for model in self.routes.routes}

    def check_unload(self, name: str, engine: SlowEngine) -> None:
        """Note the unloading of what production needs and what is well; a copy that no route names is not needed."""
        needed = plan_production(self.stored_routes()).get(name)
        model = engine.models.get(name)
        well = name not in engine.dead and name not in engine.mute
        production = [served for route in self.stored_routes().values() for served in production_of(route)]
        elsewhere = any(str(each.target) == name and engine.endpoint not in each.endpoints for each in production)
        if (
            needed is not None
            and not elsewhere
            and model is not None
            and well
            and model.digest == needed.manifest.digest
        ):
            self.violations.append(f"{name} was unloaded at {self.clock.monotonic():g} s, and production needs it")

    def check_memory(self, name: str, memory_bytes: int) -> None:
        """Note a load for which there is no memory."""
        models = [item for engine in self.engines.values() for item in engine.models.items()]
        used = sum(model.memory_bytes for other, model in models if other != name)
        if used + memory_bytes > SETTINGS.memory_budget_bytes:
            self.violations.append(f"{name} was loaded into memory that is not there")

    def record(self) -> Servers:
        """Return the fleet's record."""
        _, data = self.bucket.data.get("main", (0, b""))
        return parse(Servers, data, "servers/main") if data else Servers()

    def answers(self, event: Event) -> list[cf.Fact]:
        """Return the stored answers to an order."""
        return [emit.fact for emit in self.log.log if emit.cause_id == event.id]

    def ready(self) -> set[str]:
        """Return the names of the targets that generate."""
        return {name for name, held in self.process.manager.executor.held().items() if held.phase is Phase.READY}


def target(version: int) -> str:
    return str(deployable(version).target)

"""server-manager and everything around it, in virtual time: processes die and start, the engine and the bus go on."""

import asyncio
from pathlib import Path

from contracts import facts as cf
from contracts.envelope import Event
from contracts.services import SERVICES
from decisions.route_edits import Changed, roll_back
from services.server_manager.app import SERVICE, build
from services.server_manager.domain.reconcile import Phase, plan_production
from services.server_manager.domain.records import Servers
from services.server_manager.fleet_state import FleetState
from services.server_manager.known_routes import KnownRoutes
from services.server_manager.settings import ServerManagerSettings
from shared.errors import Transient
from shared.messaging.records import RecordStore
from shared.storage.record_format import parse
from tests.kit.fake_bus import FakeBus, Life, Message, Streams
from tests.kit.fakes_serving import FakeArtifacts, FakeEngine, FakeLead, FakeLease, FakeRoutes
from tests.kit.records import MemoryBucket, MemoryPublisher, MemoryRecords
from tests.kit.virtual_time import VirtualClock
from tests.unit.server_manager.factories import START, deployable

LEASE_S = 6.0
MODEL = "bot"
SETTINGS = ServerManagerSettings(
    memory_budget_bytes=1000, overhead_bytes=80, linger_s=20.0, order_deadline_s=120.0, tick_s=2.0
)
"""Every target weighs 100 and so reserves 200: five fit."""


class SlowEngine(FakeEngine):
    """Loads take time and end even if nobody waits for them any more; every request is checked when it begins."""

    def __init__(self, world: "FleetWorld") -> None:
        super().__init__()
        self._world = world
        self._turn = asyncio.Lock()
        self.load_s = 3.0
        self.endless: set[str] = set()
        self._loads: set[asyncio.Task[None]] = set()

    async def load(self, name, folder: Path, *, digest, memory_bytes, permit=None):
        async with self._turn:
            await permit()
            self._check()
            self._world.check_memory(name, memory_bytes)
            loading = asyncio.create_task(self._load(name, folder, digest, memory_bytes))
            self._loads.add(loading)
            loading.add_done_callback(self._loads.discard)
            await asyncio.shield(loading)

    async def _load(self, name, folder, digest, memory_bytes):
        self.loading = True
        try:
            await asyncio.sleep(300.0 if name in self.endless else self.load_s)
            if name in self.endless:
                raise Transient("load_failed", f"{name} was not ready within 300 s")
            await super().load(name, folder, digest=digest, memory_bytes=memory_bytes)
        finally:
            self.loading = False

    async def unload(self, name, *, wait=True, permit=None):
        async with self._turn:
            await permit()
            self._check()
            self._world.check_unload(name)
            await super().unload(name, wait=wait)


class Memory:
    """The file of routes beside the models."""

    def __init__(self) -> None:
        self.routes = {}

    def load(self):
        return dict(self.routes)

    def save(self, routes):
        self.routes = dict(routes)


class LossyRoutes(FakeRoutes):
    """Routes on a bus that may be lost, and whose bucket may be."""

    lost = False

    async def all(self):
        self._check()
        return await super().all()

    async def edit(self, model, change):
        self._check()
        return await super().edit(model, change)

    def _check(self):
        if self.lost:
            raise Transient("bus_unavailable", "lost")


class FleetWorld:
    """What outlives the process, and the process that lives now."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock(START)
        self.streams = Streams()
        self.bucket, self.log = MemoryBucket(), MemoryPublisher("server-manager")
        self.routes, self.memory = LossyRoutes(), Memory()
        self.lease = FakeLease()
        self.artifacts = FakeArtifacts(folder)
        self.engine = SlowEngine(self)
        self.violations: list[str] = []
        self.said: list[Event] = []
        self.busy_steps = 0
        self.forgotten = {}
        """Routes that nobody knows any more."""
        self.life: Life | None = None
        self.bus: FakeBus | None = None
        self.manager = None

    # -- the process ------------------------------------------------------------------------------------------------

    def start(self, kill_at=None) -> Life:
        """Start a process; it dies at its step number `kill_at`."""
        life = self.life = Life(kill_at)
        records = life.mortal(MemoryRecords(Servers, self.bucket), "get", "create", "update", "keys")
        log = life.mortal(self.log, "publish", "was_published")
        state = FleetState(
            RecordStore("servers", records, log, service=SERVICE, jitter=lambda: 0.5, decides_again=True), "main"
        )
        lead = FakeLead(
            FleetState(
                RecordStore("servers", MemoryRecords(Servers, self.bucket), log, service=SERVICE, decides_again=True),
                "main",
            ),
            self.lease,
        )
        self.bus = FakeBus(SERVICE, self.streams, log, life)
        self.manager = build(
            self.bus,
            engine=life.mortal(self.engine, "index", "load", "unload", "probe"),
            artifacts=life.mortal(self.artifacts, "materialise", "describe", "keep_only"),
            state=state,
            routes=KnownRoutes(life.mortal(self.routes, "all", "edit"), self.memory),
            lead=life.mortal(lead, "hold", "confirm", "release"),
            settings=SETTINGS,
            clock=self.clock,
        )
        life.spawn(self.manager.run())
        self.bus.start()
        return life

    async def keep_running(self, *kills) -> None:
        """Start a process, and a new one when the lease of a dead one has lapsed; the n-th dies at step `kills[n]`."""
        kills = list(kills)
        while True:
            life = self.start(kills.pop(0) if kills else None)
            await life.ended.wait()
            await life.close()
            await asyncio.sleep(LEASE_S)
            self.lease.holder = None

    async def stop(self) -> None:
        """End the process; raise what its handlers raised by mistake."""
        if self.life is not None:
            await self.life.close()
        if self.streams.defects:
            raise self.streams.defects[0]

    # -- facts and failures -----------------------------------------------------------------------------------------

    def say(self, event: Event) -> Event:
        """Publish a fact of another service."""
        event = event.model_copy(update={"time": self.clock.now()})
        assert (type(event.data), "production") in SERVICES[SERVICE].reads
        self.said.append(event)
        self.streams.put(Message(len(self.said), event, self.clock.now()))
        if self.bus is not None:
            self.bus.deliver()
        return event

    def lose_bus(self, lost: bool) -> None:
        """Lose the bus, or get it back."""
        self.bucket.lost = self.routes.lost = lost
        self.log.failing = Transient("bus_unavailable", "lost") if lost else None

    def roll_back(self) -> None:
        """Roll the active target back, as the rollback-controller does."""
        route = self.routes.routes.get(MODEL)
        if route is not None and route.active is not None:
            edit = roll_back(route, route.active.target, cause_id=f"rb-{route.epoch}")
            if isinstance(edit, Changed):
                self.routes.routes[MODEL] = edit.route

    # -- what must hold ---------------------------------------------------------------------------------------------

    def known_routes(self):
        """Return the newest routes: those of the bucket, or those that were in it before it was lost."""
        return {**self.memory.routes, **self.routes.routes}

    def check_unload(self, name: str) -> None:
        """Note the unloading of what production needs and what is well."""
        needed = plan_production(self.routes.routes).get(name)
        model = self.engine.models.get(name)
        well = name not in self.engine.dead and name not in self.engine.mute
        if needed is not None and model is not None and well and model.digest == needed.manifest.digest:
            self.violations.append(f"{name} was unloaded at {self.clock.monotonic():g} s, and production needs it")
        before = plan_production({**self.forgotten, **self.memory.routes})
        if not self.routes.routes and name in before and model is not None and well:
            self.violations.append(f"{name} was unloaded because its route is missing")

    def check_memory(self, name: str, memory_bytes: int) -> None:
        """Note a load for which there is no memory."""
        used = sum(model.memory_bytes for other, model in self.engine.models.items() if other != name)
        if used + memory_bytes > SETTINGS.memory_budget_bytes:
            self.violations.append(f"{name} was loaded into memory that is not there")

    def record(self) -> Servers:
        """Return the fleet's record."""
        _, data = self.bucket.data.get("main", (0, b""))
        return parse(Servers, data, "servers/main")[0] if data else Servers()

    def answers(self, event: Event) -> list[cf.Fact]:
        """Return the stored answers to an order."""
        return [emit.fact for emit in self.log.log if emit.cause_id == event.id]

    def hot(self) -> set[str]:
        """Return the names of the targets that generate."""
        return {name for name, held in self.manager.executor.held().items() if held.phase is Phase.HOT}


def target(version: int) -> str:
    return str(deployable(version).target)

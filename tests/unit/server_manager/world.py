"""A manager and everything around it, on fakes."""

import asyncio

from contracts.runtimes import DEFAULT_RUNTIME
from services.server_manager.adapters.repository_files import RoutesFile
from services.server_manager.attached_models import AttachedModels
from services.server_manager.domain import staging
from services.server_manager.domain.reconcile import Limits
from services.server_manager.known_routes import KnownRoutes
from services.server_manager.manager import Manager
from tests.kit.fakes_serving import (
    LEASE_S,
    FakeArtifacts,
    FakeAttached,
    FakeAttachments,
    FakeClock,
    FakeEngine,
    FakeLead,
    FakeLease,
    FakeRoutes,
    FakeRuntimesView,
    FakeState,
    Progress,
)

V0, V1, V2 = "bot.v0.bf16", "bot.v1.bf16", "bot.v2.bf16"


class Said:
    """What the log of facts holds, in order."""

    def __init__(self, log) -> None:
        self._log = log

    @property
    def emits(self):
        return self._log.log

    def facts(self, kind):
        return [emit.fact for emit in self._log.log if isinstance(emit.fact, kind)]


class World:
    """A manager and everything around it."""

    def __init__(self, folder, *runtimes, endpoints=()) -> None:
        """Set up the manager of a fleet with the runtime `default`, these runtimes, and more endpoints of the default one."""
        self.clock = FakeClock()
        self.engine = FakeEngine()
        self.engines = {DEFAULT_RUNTIME: self.engine, **{name: FakeEngine() for name in (*runtimes, *endpoints)}}
        for number, engine in enumerate(self.engines.values(), 1):
            engine.endpoint = f"127.0.0.1:{number}"
        self.view = FakeRuntimesView()
        self.artifacts = FakeArtifacts(folder)
        self.state = FakeState()
        self.routes = FakeRoutes()
        self.lease = FakeLease(self.state.bucket)
        self.lead = FakeLead(self.lease, self.clock)
        self.said = Said(self.state.log)
        self.progress = Progress()
        self.attachments, self.servers = FakeAttachments(), FakeAttached()
        self.attached = AttachedModels(self.engines, self.attachments, lambda _model: self.servers)
        self.limits = Limits(
            attached=self.attached.names,
            memory_budget_bytes=1000,
            overhead_bytes=100,
            weights_ratio=1.0,
            linger_s=30,
            endpoints={name: DEFAULT_RUNTIME if name in endpoints else name for name in self.engines},
        )
        self.memory = RoutesFile(folder / "repository")
        self.start()

    def forget_routes(self) -> None:
        """Lose the file of routes beside the models, and all that the manager remembers."""
        (self.artifacts.root / "repository" / "slipway-routes.json").unlink(missing_ok=True)
        self.start()

    def start(self) -> None:
        """Start the manager, or start it again with nothing remembered but the record and the files."""
        self.known = KnownRoutes(self.routes, self.memory)
        self.manager = Manager(
            engines=self.engines,
            attached=self.attached,
            view=self.view,
            artifacts=self.artifacts,
            state=self.state,
            routes=self.known,
            lead=self.lead,
            report_progress=self.progress,
            clock=self.clock,
            limits=self.limits,
        )

    async def ticks(self, count=4, seconds=1.0) -> None:
        for _ in range(count):
            self.clock.seconds += seconds
            await self.manager.run_pass()
            for _ in range(60):
                await asyncio.sleep(0)

    def supersede(self) -> None:
        """Let this process stand still for longer than the lease, and another one take the engine over."""
        self.clock.seconds += LEASE_S + 0.1
        self.lease.set("another")

    async def order(self, event) -> None:
        await self.state.write(lambda record: staging.enqueue_order(record, event, self.clock.now()))

    def phases(self):
        return {name: held.phase for name, held in self.manager.executor.held().items()}


def with_settings(event, name, settings):
    """Return an order whose deployable of that name has serving settings."""
    loadable = getattr(event.data, name).model_copy(update={"serving": settings})
    return event.model_copy(update={"data": event.data.model_copy(update={name: loadable})})

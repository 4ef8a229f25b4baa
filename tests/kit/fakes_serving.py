"""Handwritten stand-ins for what server-manager needs; each is held to the suite that the real thing passes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from contracts.routes import Route
from decisions.route_edits import Changed
from services.server_manager.domain.description import Description
from services.server_manager.domain.records import Servers
from services.server_manager.fleet_state import FleetState
from services.server_manager.ports import Extent, Indexed, allow
from shared.errors import Transient
from shared.messaging.records import RecordStore
from shared.storage.record_format import parse
from tests.kit.records import MemoryBucket, MemoryPublisher, MemoryRecords


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class FakeEngine:
    """An engine in memory: folders without config.json cannot be loaded, like in the real one."""

    endpoint = "127.0.0.1:1"

    def __init__(self) -> None:
        self.down = False
        self.loading = False
        self.models: dict[str, Indexed] = {}
        self.dead: set[str] = set()
        self.mute: set[str] = set()
        self.loads: list[str] = []

    def _check(self) -> None:
        if self.down:
            raise Transient("endpoint_unreachable", "down")

    def restart(self) -> None:
        """Kill it and start it again."""
        self.models.clear()
        self.dead.clear()
        self.mute.clear()
        self.down = False

    async def index(self):
        self._check()
        return None if self.loading else dict(self.models)

    async def load(self, name, folder: Path, *, digest, memory_bytes, permit=allow):
        await permit()
        self._check()
        self.loads.append(name)
        if not (folder / "config.json").is_file():
            raise Transient("load_failed", f"{folder} holds no config.json")
        self.models[name] = Indexed(ready=True, digest=digest, memory_bytes=memory_bytes)

    async def unload(self, name, *, wait=True, permit=allow):  # noqa: ARG002
        await permit()
        self._check()
        self.models.pop(name, None)
        self.dead.discard(name)
        self.mute.discard(name)

    async def probe(self, name, deadline_s):  # noqa: ARG002
        self._check()
        if name not in self.models:
            raise Transient("endpoint_unreachable", f"{name} is not loaded there")
        if name in self.dead:
            raise Transient("engine_dead", "the engine is dead")
        if name in self.mute:
            raise Transient("no_first_token", "nothing came")
        return "keel"


class FakeArtifacts:
    """Folders that are simply there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kept: set[str] = set()
        self.broken: dict[str, Exception] = {}

    async def materialise(self, deployable, progress=None):  # noqa: ARG002
        if deployable.manifest.digest in self.broken:
            raise self.broken[deployable.manifest.digest]
        folder = self.root / str(deployable.target)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        return folder

    async def describe(self, deployable):  # noqa: ARG002
        return Description(chat_template="t", bos_token="<s>", eos_token="</s>", context_tokens=128)

    async def keep_only(self, digests):
        self.kept = set(digests)


class FakeState(FleetState):
    """The fleet's record: the real store over a bucket and a log in memory."""

    def __init__(self) -> None:
        self.bucket = MemoryBucket()
        self.log = MemoryPublisher("server-manager")
        records = MemoryRecords(Servers, self.bucket)
        super().__init__(
            RecordStore("servers", records, self.log, service="server-manager", jitter=lambda: 0.5, decides_again=True),
            "main",
        )

    @property
    def record(self) -> Servers:
        """The record as it is now, without its outbox."""
        _, data = self.bucket.data.get("main", (0, b""))
        return parse(Servers, data, "servers/main")[0].model_copy(update={"outbox": ()}) if data else Servers()

    @property
    def lost(self) -> bool:
        """Whether the bus is lost: neither records nor facts can be written."""
        return self.bucket.lost

    @lost.setter
    def lost(self, value: bool) -> None:
        self.bucket.lost = value
        self.log.failing = Transient("bus_unavailable", "lost") if value else None


class FakeRoutes:
    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}

    async def all(self):
        return dict(self.routes)

    async def edit(self, model, change):
        edit = change(self.routes.get(model, Route(model=model)))
        if isinstance(edit, Changed):
            self.routes[model] = edit.route
        return edit


class FakeLease:
    """A lease that replicas in one process share: who holds it on the bus, and who wrote beside the engine last."""

    def __init__(self) -> None:
        self.holder: object = None
        self.beside: object = None


class FakeLead:
    """One replica's side of a lease; `lapse` lets another one take it."""

    def __init__(self, state: FakeState, lease: FakeLease | None = None) -> None:
        self.state = state
        self.lease = lease or FakeLease()
        self.fresh = False

    @property
    def leads(self) -> bool:
        return self.lease.holder in (None, self)

    @leads.setter
    def leads(self, value: bool) -> None:
        self.lease.holder = self if value else object()
        self.lease.beside = self.lease.holder

    def lapse(self) -> None:
        self.lease.holder, self.fresh = None, False

    async def hold(self):
        await self.state.read()
        if self.leads:
            self.lease.holder = self.lease.beside = self
        self.fresh = self.leads
        return self.leads

    async def confirm(self):
        if self.superseded():
            return Extent.NOTHING
        try:
            await self.state.read()
        except Transient:
            return Extent.RECYCLE
        return Extent.ALL if self.lease.holder is self else Extent.NOTHING

    def valid(self):
        return self.fresh

    def superseded(self):
        return self.lease.beside not in (None, self)

    async def release(self):
        await self.state.read()
        if self.lease.holder is self:
            self.lapse()


class Progress:
    """The progress that was reported, in order."""

    def __init__(self) -> None:
        self.reports = []

    async def __call__(self, cause, progress):
        self.reports.append((cause.id, progress))

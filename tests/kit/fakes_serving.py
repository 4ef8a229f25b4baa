"""Handwritten stand-ins for what server-manager needs; each is held to the suite that the real thing passes."""

import errno
import itertools
import shutil
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contracts.attachments import Attachment
from contracts.routes import Route
from contracts.runtimes import FleetRuntime, FleetRuntimes
from contracts.vocabulary import Runtime, ServingSettings
from decisions.releases.provenance import Problem
from services.server_manager.adapters.kv_state import KvAttachments, KvLeadership, KvRoutes, KvRuntimes
from services.server_manager.domain.description import Description
from services.server_manager.domain.records import Leader, Servers
from services.server_manager.domain.references import References
from services.server_manager.fleet_state import FleetState
from services.server_manager.ports import Extent, Indexed, Parts, allow
from services.server_manager.references import KeptReferences
from shared.errors import Transient
from shared.messaging.records import RecordStore
from shared.runtime.clock import Clock, SystemClock
from shared.storage.record_format import dump, parse
from tests.kit.records import Faults, FaultyRecords, MemoryBucket, MemoryPublisher, MemoryRecords


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


def no_references(clock: Clock | None = None) -> KeptReferences:
    """Return references in memory: nothing is recorded yet."""
    return KeptReferences(MemoryRecords(References), "main", "a CPU", clock or SystemClock(), 0.05)


class Hooks:
    """What else happens at a step of a fake, each time: `at["load after"]` is awaited there, and may raise."""

    def __init__(self) -> None:
        self.at: dict[str, Callable[..., Awaitable[object]]] = {}

    async def reach(self, step: str, *about: object) -> None:
        if step in self.at:
            await self.at[step](*about)


class FakeEngine:
    """An engine in memory: folders without config.json cannot be loaded, like in the real one.

    Steps of its hooks, which take the target's name: `load queued` and `unload queued` (before the request's turn has
    come), `load before` (permitted), `load after`. `index before` takes nothing.
    """

    endpoint = "127.0.0.1:1"
    parts: Parts = "all"
    runtime: Runtime | None = None

    def __init__(self) -> None:
        self.down = False
        self.loading = False
        self.models: dict[str, Indexed] = {}
        self.serving: dict[str, ServingSettings | None] = {}
        self.dead: set[str] = set()
        self.mute: set[str] = set()
        self.differing: set[str] = set()
        self.loads: list[str] = []
        self.hooks = Hooks()

    def addresses(self, name):  # noqa: ARG002
        return (self.endpoint,)

    def context_tokens(self, name):  # noqa: ARG002
        return None

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
        await self.hooks.reach("index before")
        self._check()
        return None if self.loading else dict(self.models)

    async def load(self, name, folder: Path, *, digest, memory_bytes, serving=None, permit=allow):
        await self.hooks.reach("load queued", name)
        await permit()
        await self.hooks.reach("load before", name)
        self._check()
        self.loads.append(name)
        if not (folder / "config.json").is_file():
            raise Transient("load_failed", f"{folder} holds no config.json")
        self.models[name] = Indexed(ready=True, digest=digest, memory_bytes=memory_bytes, runtime=self.runtime)
        self.serving[name] = serving
        await self.hooks.reach("load after", name)

    async def unload(self, name, *, wait=True, permit=allow):  # noqa: ARG002
        await self.hooks.reach("unload queued", name)
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
        if name in self.differing:
            raise Transient("logprobs_differ", f"{name}: other weights")
        return "keel"


class FakeAttachments(KvAttachments):
    """The records of attached servers: the real adapter over a bucket in memory, which has what `groups` says.

    A model without a group has a record that cannot be read.
    """

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, tuple[str, ...]]] = {}
        self.adapters: dict[str, str] = {}
        self.bucket = FaultyBucket()
        super().__init__(records_of(Attachment, self.bucket))

    async def all(self):
        self.bucket.data |= {
            model: (1, dump(self._record(model, groups)) if groups else b"damaged")
            for model, groups in self.groups.items()
        }
        for model in self.bucket.data.keys() - self.groups.keys():
            del self.bucket.data[model]
        return await super().all()

    def _record(self, model, groups):
        return Attachment(model=model, groups=groups, adapters=self.adapters.get(model))


class FakeAttached(FakeEngine):
    """Attached servers in memory: `names` has what each address lists."""

    endpoint = "attached"
    parts: Parts = "texts"
    adapters: Path | None = None

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.in_routes = {}
        self.groups: dict[str, tuple[str, ...]] = {"blue": ("http://a", "http://b")} if names else {}
        self.names: dict[str, set[str]] = {url: set(names) for urls in self.groups.values() for url in urls}

    def addresses(self, name):
        urls = [urls for urls in self.groups.values() if any(name in self.names.get(url, ()) for url in urls)]
        return tuple(url for group in urls for url in group)

    def listed(self, url):
        return frozenset(self.names[url]) if url in self.names else None

    def may_have(self, name):
        enough = any if name in self.in_routes else all
        return any(enough(name in self.names.get(url, ()) for url in urls) for urls in self.groups.values())

    async def index(self):
        self.models = {name: entry for name, entry in self.models.items() if self.addresses(name)}
        return await super().index()

    async def load(self, name, folder, *, digest, memory_bytes, serving=None, permit=allow):
        await permit()
        if not self.may_have(name):
            raise Transient("endpoint_unreachable", f"no attached group serves {name}")
        await super().load(name, folder, digest=digest, memory_bytes=memory_bytes, serving=serving, permit=permit)


class AllProven:
    """Knows of no target that is not proven."""

    def verify(self, deployable):
        """Let everything be loaded."""

    def assess_traffic(self, deployable):  # noqa: ARG002
        return None


class FakeArtifacts:
    """Folders that are simply there; its hooks know the step `materialise before`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kept: set[str] = set()
        self._folders: dict[str, Path] = {}
        """The folder of each manifest's digest."""
        self.undeletable: OSError | None = None
        self.undescribable: dict[str, Exception] = {}
        self.broken: dict[str, Exception] = {}
        self.unproven: dict[str, Problem | Exception] = {}
        """Why a target may not take traffic, or what asking for it raises."""
        self.hooks = Hooks()

    async def materialise(self, deployable, parts="all"):  # noqa: ARG002 - the fake keeps no files
        await self.hooks.reach("materialise before")
        if deployable.manifest.digest in self.broken:
            raise self.broken[deployable.manifest.digest]
        folder = self._folders[deployable.manifest.digest] = self.root / str(deployable.target)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        return folder

    async def assess_traffic(self, deployable):
        await self.hooks.reach("assess traffic")
        verdict = self.unproven.get(str(deployable.target))
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async def describe(self, deployable):
        if deployable.manifest.digest in self.undescribable:
            raise self.undescribable[deployable.manifest.digest]
        return Description(chat_template="t", bos_token="<s>", eos_token="</s>", context_tokens=128)

    async def keep_only(self, digests):
        if self.undeletable is not None:
            raise self.undeletable
        self.kept = set(digests)
        for digest in set(self._folders) - self.kept:
            shutil.rmtree(self._folders.pop(digest))


class FaultyBucket(MemoryBucket):
    """A bucket that is lost for a time, and whose writes may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.faults = Faults()


def records_of(kind, bucket: FaultyBucket) -> FaultyRecords:
    """Return the records of one kind in a bucket, as one process sees them."""
    return FaultyRecords(MemoryRecords(kind, bucket), bucket.faults)


class FakeState(FleetState):
    """The fleet's record: the real store over a bucket and a log in memory."""

    def __init__(self) -> None:
        self.bucket = FaultyBucket()
        self.log = MemoryPublisher("server-manager")
        records = records_of(Servers, self.bucket)
        super().__init__(
            RecordStore("servers", records, self.log, service="server-manager", jitter=lambda: 0.5, decides_again=True),
            "main",
        )

    @property
    def record(self) -> Servers:
        """The record as it is now, without its outbox."""
        _, data = self.bucket.data.get("main", (0, b""))
        return parse(Servers, data, "servers/main").model_copy(update={"outbox": ()}) if data else Servers()

    @property
    def lost(self) -> bool:
        """Whether the bus is lost: neither records nor facts can be written."""
        return self.bucket.lost

    @lost.setter
    def lost(self, value: bool) -> None:
        self.bucket.lost = value
        self.log.failing = Transient("bus_unavailable", "lost") if value else None


class StoredRoutes(MutableMapping[str, Route]):
    """The routes in a bucket by model, as its bytes say; written as another service writes them."""

    def __init__(self, bucket: MemoryBucket) -> None:
        self._bucket = bucket

    def __getitem__(self, model: str) -> Route:
        return parse(Route, self._bucket.data[model][1], f"routes/{model}")

    def __setitem__(self, model: str, route: Route) -> None:
        self.put(model, dump(route))

    def __delitem__(self, model: str) -> None:
        del self._bucket.data[model]

    def __iter__(self):
        return iter(dict(self._bucket.data))

    def __len__(self) -> int:
        return len(self._bucket.data)

    def clear(self) -> None:
        """Remove all routes, also those that cannot be read."""
        self._bucket.data.clear()

    def put(self, model: str, data: bytes) -> None:
        """Write the bytes of a route."""
        self._bucket.last_revision += 1
        self._bucket.data[model] = (self._bucket.last_revision, data)


class FakeRoutes(KvRoutes):
    """The routes: the real adapter over a bucket in memory."""

    def __init__(self) -> None:
        self.bucket = FaultyBucket()
        self.routes = StoredRoutes(self.bucket)
        super().__init__(records_of(Route, self.bucket))


class FakeRuntimesView(KvRuntimes):
    """What others see of the runtimes: the real adapter over a bucket in memory."""

    def __init__(self) -> None:
        self.bucket = FaultyBucket()
        super().__init__(records_of(FleetRuntimes, self.bucket), "main")

    @property
    def stored(self) -> dict[str, FleetRuntime]:
        """The endpoints as others read them, by name: a runtime's first one has the name of the runtime."""
        data = self.bucket.data["main.runtimes"][1]
        runtimes = parse(FleetRuntimes, data, "servers/main.runtimes").runtimes
        return {runtime.endpoint_name or runtime.name: runtime for runtime in runtimes}


class MemoryTerms:
    """The file of the term beside the engine (implements `kv_state.Terms`)."""

    def __init__(self) -> None:
        self.leader: Leader | None = None
        self.full = False
        """Whether the disk is full, so that no term can be written there."""

    def read(self) -> Leader | None:
        return self.leader

    def holds(self, leader: Leader) -> bool:
        return self.leader == leader

    def write(self, leader: Leader) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.leader = leader


class FakeLease:
    """A lease that replicas share: its record on the bus, and the term beside the engine."""

    def __init__(self, bucket: FaultyBucket | None = None) -> None:
        self.bucket = FaultyBucket() if bucket is None else bucket
        self.terms = MemoryTerms()

    @property
    def leader(self) -> Leader | None:
        """Who holds the lease, as the bus says."""
        _, data = self.bucket.data.get("main.leader", (0, b""))
        return parse(Leader, data, "servers/main.leader") if data else None

    @property
    def revision(self) -> int:
        """The revision of the lease on the bus: each renewal is one."""
        return self.bucket.data.get("main.leader", (0, b""))[0]

    def set(self, holder: str) -> None:
        """Write another holder, or none, under the next term; a holder writes its term beside the engine too."""
        known = [leader.term for leader in (self.leader, self.terms.leader) if leader is not None]
        leader = Leader(holder=holder, term=max(known, default=0) + 1)
        self.bucket.last_revision += 1
        self.bucket.data["main.leader"] = (self.bucket.last_revision, dump(leader))
        if holder:
            self.terms.leader = leader


class FakeLead(KvLeadership):
    """One replica's side of a lease: the real one over a bucket and a term in memory; it lapses with its clock."""

    def __init__(self, lease: FakeLease, clock, *, port=lambda records: records) -> None:
        self.lease = lease
        self.holder = f"replica-{next(_REPLICAS)}"
        self.clock = clock
        self.leaderless = False
        """Whether the bus names no leader at the moments in which a request to the engine is due."""
        records = port(records_of(Leader, lease.bucket))
        super().__init__(records, "main", self.holder, clock, lease.terms, lease_s=LEASE_S)

    async def confirm(self) -> Extent:
        return Extent.NOTHING if self.leaderless else await super().confirm()

    @property
    def term(self) -> int:
        """The term under which this replica acts."""
        return self._term


_REPLICAS = itertools.count(1)
LEASE_S = 6.0


class Progress:
    """The progress that was reported, in order."""

    def __init__(self) -> None:
        self.reports = []

    async def __call__(self, cause, progress):
        self.reports.append((cause.id, progress))

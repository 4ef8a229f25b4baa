"""What outlives the processes: the bus, the store, the engine, the disks, the callers; and the processes."""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

from contracts.policy import ReleasePolicy
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Environment
from decisions.evidence.attribution import ErrorKind
from services.gateway.domain.routing import fraction
from shared.provenance.signed_versions import SignedPolicy
from tests.kit import fakes_registry as k
from tests.kit.fakes_monitor import FakeReferences
from tests.kit.fakes_serving import FakeArtifacts, MemoryTerms
from tests.kit.slow_engine import Memory, SlowEngine
from tests.kit.virtual_time import VirtualClock
from tests.world.attached import AttachedServers
from tests.world.bus import Consumers
from tests.world.checks import Checks
from tests.world.fate import Fate, Fault
from tests.world.gateway import Answer, Gateway, Probe, RehearsalTraffic
from tests.world.jetstream import JetStream, Server
from tests.world.person import Person
from tests.world.process import Process
from tests.world.workers import WorkerStores

MODEL = k.MODEL
SHOWN_S = 60.0
"""How much longer a bad version may be active."""


class World:
    """Everything of one story."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.clock = VirtualClock(k.START)
        self.lines: list[str] = []
        self.server = Server(self.clock.true_time)
        self.consumers = Consumers(self.server, fate.late_s)
        self.js = JetStream(self.server)
        """The story's own connection, which nothing disturbs."""
        self.artifacts = k.FakeArtifacts()
        self.proofs, self.policies = Proofs(self.artifacts), Policies(self.artifacts)
        self.references = FakeReferences()
        self._folder = tempfile.TemporaryDirectory(prefix="world-")
        self.copies = FakeArtifacts(Path(self._folder.name))
        self.stores = WorkerStores(Path(self._folder.name))
        self.engine, self.terms, self.memory = SlowEngine(self), MemoryTerms(), Memory()
        self.attached = AttachedServers(self)
        self.probe = Probe(self)
        self.saved_routes: dict[str, dict[str, Route]] = {}
        """What each gateway has on its disk."""
        self.gateways: dict[str, Gateway] = {}
        self.processes: dict[str, Process] = {}
        self.bad: dict[int, tuple[float, float]] = {}
        """From when on, in seconds of the story, which share of a version's answers is bad."""
        self.kinds: dict[str, str] = {}
        """Of the checkpoint of each release: good, bad, or bad later."""
        self.violations: list[str] = []
        self.traces: list[str] = []
        self._clocks = {seat: VirtualClock(k.START) for seat in fate.seats}
        self._closed: dict[tuple[str, str], float] = {}
        self._changes: dict[str, int] = {}
        self.answers: list[tuple[float, Answer]] = []
        self.checks = Checks(self)
        self.person = Person(self)

    def close(self) -> None:
        """Remove what is on the disk."""
        self._folder.cleanup()

    @property
    def now_s(self) -> float:
        """Seconds of the story."""
        return self.clock.monotonic()

    def tell(self, line: str) -> None:
        """Add a line to the story."""
        self.lines.append(f"{self.now_s:9.3f} {line}")

    def violated(self, sentence: str) -> None:
        """Note what must not be."""
        self.tell(f"!! {sentence}")
        self.violations.append(f"at {self.now_s:.1f} s: {sentence}")

    # -- what processes meet ---------------------------------------------------------------------------------------

    def clock_of(self, seat: str) -> VirtualClock:
        """Return the clock of the machine that a process runs on."""
        return self._clocks[seat]

    def closed_until_s(self, place: str, service: str) -> float:
        """Return until when a place is out of a service's reach."""
        return max(self._closed.get((place, ""), 0.0), self._closed.get((place, service), 0.0))

    def kills(self, service: str) -> bool:
        """Count half a change of a service, and return whether it dies of it: an odd one is before it arrives."""
        self._changes[service] = self._changes.get(service, 0) + 1
        return self.fate.deadly(service, self._changes[service])

    def loses_answer(self, service: str) -> bool:
        """Return whether the answer to the last change of a service is lost."""
        return self.fate.loses_answer(service, self._changes[service])

    async def befall(self, fault: Fault) -> None:
        """Let a fault come at its time."""
        if fault.change:
            return
        await asyncio.sleep(fault.at_s)
        self.tell(f"-- {fault}")
        self.fate.came.add(fault)
        process = self.processes.get(fault.service)
        match fault.kind:
            case "kill at" if process is not None:
                process.end("is killed")
            case "pause" if process is not None:
                process.pause(fault.seconds)
            case "cut off" | "bus away":
                self._close("bus", fault.service, fault.seconds)
            case "store away":
                self._close("store", "", fault.seconds)
            case "clock jumps":
                self._clocks[fault.service].jump(fault.seconds)
            case "log full":
                stream = self.server.streams["SLIPWAY_EVENTS"]
                stream.full = True
                await asyncio.sleep(fault.seconds)
                stream.full = False
            case "bucket lost":
                self.server.lose(fault.service if fault.service in self.server.streams else f"KV_{fault.service}")
                await self.person.act(fault)
            case "engine restarts":
                self.engine.restart()
            case "engine dies":
                self.engine.dead |= set(list(self.engine.models)[:1])
            case "engine slow":
                self.engine.hanging = True
                await asyncio.sleep(fault.seconds)
                self.engine.hanging = False
            case _:
                await self.person.act(fault)

    def _close(self, place: str, service: str, seconds: float) -> None:
        key = (place, service)
        self._closed[key] = max(self._closed.get(key, 0.0), self.now_s + seconds)

    # -- engines, gateways, callers --------------------------------------------------------------------------------

    def ask_engine(self, served: ServedTarget, key: str) -> ErrorKind | None:
        """Return why a target does not answer a request well; None if it does."""
        name = str(served.target)
        is_there = name in self.engine.models or self.attached.lists(served)
        if self.engine.down or not is_there or self.engine.hanging:
            return "endpoint_unreachable"
        if name in self.engine.dead:
            return "engine_dead"
        since_s, share = self.bad.get(served.target.version, (0.0, 0.0))
        return "engine_failed" if self.now_s >= since_s and fraction(f"bad|{name}|{key}") < share else None

    def ask_gateway(self, model: str, environment: Environment = "production") -> Answer:
        """Return what a gateway answers to a new request."""
        alive = [gateway for seat, gateway in self.gateways.items() if not self.processes[seat].dead]
        number = self.fate.draws.getrandbits(64)
        if not alive:
            return Answer(failed="no_serving_target")
        return alive[number % len(alive)].answer(model, f"{number:016x}", environment)

    async def call(self, every_s: float = 4.0, requests: int = 16) -> None:
        """Send requests in blocks, for ever."""
        before: Counter[str] = Counter()
        while True:
            await asyncio.sleep(every_s)
            block = [self.ask_gateway(MODEL) for _ in range(requests)]
            self.answers += [(self.now_s, answer) for answer in block]
            for lost in dict.fromkeys(answer for answer in block if answer.version is None):
                self.checks.check_lost(lost)
            got = Counter(
                f"v{each.version}" if each.failed is None else f"{each.failed} {each.tried}" for each in block
            )
            if set(got) != set(before):
                self.tell("callers get " + ", ".join(f"{what}: {times}" for what, times in sorted(got.items())))
            before = got

    def all_bad_shown(self) -> bool:
        """Return whether no version is yet to become bad, and a bad one that is active had time to show it."""
        route, began_s = self.checks.route, self.checks.active_since_s
        active = route.active.target.version if route is not None and route.active is not None else 0
        starts = [since_s for since_s, _ in self.bad.values()]
        starts += [max(began_s, self.bad[active][0]) + SHOWN_S] if active in self.bad else []
        return all(self.now_s > since_s + 40.0 for since_s in starts)

    def save_routes(self, seat: str, routes: dict[str, Route]) -> None:
        """Save the routes on a gateway's disk."""
        self.saved_routes[seat] = dict(routes)

    def traffic_of(self, process: Process) -> RehearsalTraffic:
        """Return what sends the requests of rehearsals."""
        return RehearsalTraffic(self, process)

    # -- what the engine asks of its world -------------------------------------------------------------------------

    def check_memory(self, name: str, memory_bytes: int) -> None:
        """Note a load for which there is no memory."""
        self.checks.check_memory(name, memory_bytes)

    def check_unload(self, name: str, _engine: SlowEngine) -> None:
        """Note the unloading of what production needs."""
        self.checks.check_unload(name)

    def note_act(self, process: Process) -> None:
        """Nothing to note: `EngineClient` lets no process act whose term is over."""


class Policies:
    """The policies that are signed with versions."""

    def __init__(self, artifacts: k.FakeArtifacts) -> None:
        self._artifacts = artifacts

    async def read(self, model: str, version: int) -> SignedPolicy | str:
        """Return the policy of a version; a sentence without it."""
        manifest = self._artifacts.versions.get(f"versions/{model}/{version}/manifest.json")
        if manifest is None:
            return f"{model} has no version {version}."
        return SignedPolicy(manifest.release_id, ReleasePolicy.model_validate(manifest.policy))


class Proofs(Policies):
    """Attestations and signed policies."""

    def __init__(self, artifacts: k.FakeArtifacts) -> None:
        super().__init__(artifacts)
        self.rehearsals: list[object] = []

    async def policy(self, model: str, version: int) -> SignedPolicy | str:
        """Return the policy of a version; a sentence without it."""
        return await self.read(model, version)

    async def attest_rehearsal(self, record: object) -> None:
        """Append the outcome of a rehearsal."""
        if record not in self.rehearsals:
            self.rehearsals.append(record)

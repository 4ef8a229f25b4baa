"""The rollback-controller and everything around it, in virtual time: processes die and start, the rest goes on."""

import asyncio
import functools
from collections import Counter
from datetime import datetime

from contracts import facts as cf
from contracts.envelope import Event, source_of
from contracts.services import SERVICES
from services.rollback_controller.adapters.probes import STANDBYS_EVERY_S, RememberedProbe, StandbyProbes
from services.rollback_controller.app import build
from services.rollback_controller.controller import SERVICE, Controller
from services.rollback_controller.domain.record import RollbackState
from services.rollback_controller.settings import RollbackControllerSettings
from services.rollback_controller.states import RollbackStates
from shared.messaging.records import RecordStore
from shared.runtime.sweeper import Sweeper
from shared.storage.record_format import parse
from testbed import factories as f
from tests.kit.fake_bus import FakeBus, Life, Message, Streams
from tests.kit.fakes_rollback import FakeDrills, FakeLog, FakeProbe, FakeProofs, FakeRoutes, FakeTraffic
from tests.kit.records import MemoryBucket, MemoryRecords
from tests.kit.virtual_time import VirtualClock

RESTART_S = 3.0
TRIGGERS = (f.trigger(name="slow"), f.trigger(name="refusals", metric="refusal_ratio", threshold=0.2, action="manual"))


@functools.cache
def _settings(**settings) -> RollbackControllerSettings:
    """Return settings; to read the environment takes longer than most stories here."""
    return RollbackControllerSettings(**({"production_drills": "*"} | settings))


class World:
    """What outlives the process, and the process that lives now."""

    def __init__(self, **settings) -> None:
        self.clock = VirtualClock(f.START)
        self.log = FakeLog(self.clock)
        self.streams = Streams()
        self.bucket = MemoryBucket()
        self.routes = FakeRoutes()
        self.drills = FakeDrills()
        self.probe = FakeProbe()
        self.traffic = FakeTraffic()
        self.proofs = FakeProofs()
        self.probes_standby = False
        self.teams = ()
        self.settings = _settings(**settings)
        self.life: Life | None = None
        self.bus: FakeBus | None = None
        self.controller: Controller | None = None
        self._ids = 0
        self._raised: dict[str, datetime] = {}

    def set_teams(self, *teams) -> None:
        """Set which teams there are."""
        self.teams = teams

    # -- the process ------------------------------------------------------------------------------------------------

    def start(self, kill_at=None) -> Life:
        """Start a process; it dies at its step number `kill_at`."""
        life = self.life = Life(kill_at)
        asked = ("resolved_since", "last_route_change", "last_raised", "raised_since", "rehearsal_requested")
        log = life.mortal(self.log, "publish", "was_published", *asked)
        records = life.mortal(MemoryRecords(RollbackState, self.bucket), "get", "create", "update", "keys")
        boottime = asyncio.get_running_loop().time
        store = RecordStore("rollbacks", records, log, service=SERVICE, jitter=lambda: 0.5, boottime=boottime)
        states = RollbackStates(store)
        self.bus = FakeBus(SERVICE, self.streams, log, life)
        probe = RememberedProbe(life.mortal(self.probe, "answers"), self.clock)
        self.controller = build(
            self.bus,
            states=states,
            routes=life.mortal(self.routes, "get", "find", "put"),
            drills=life.mortal(self.drills, "get", "put"),
            alerts=log,
            probe=probe,
            traffic=self.traffic,
            proofs=self.proofs,
            teams=lambda: self.teams,
            settings=self.settings,
            clock=self.clock,
        )
        if self.probes_standby:  # not where each step of a process is counted
            standby = StandbyProbes(states, self.routes, probe)
            life.spawn(Sweeper("standbys", standby.keys, standby.sweep, every_s=STANDBYS_EVERY_S).run())
        life.spawn(Sweeper("rollbacks", states.keys, self.controller.sweep, every_s=self.settings.sweep_s).run())
        self.bus.start()
        return life

    async def keep_running(self, *kills) -> None:
        """Start a process, and a new one some seconds after each death; the n-th dies at its step `kills[n]`."""
        left = list(kills)
        while True:
            life = self.start(left.pop(0) if left else None)
            await life.ended.wait()
            await life.close()
            await asyncio.sleep(RESTART_S)

    async def stop(self) -> None:
        """End the process; raise what its handlers raised by mistake."""
        if self.life is not None:
            await self.life.close()
        if self.streams.defects:
            raise self.streams.defects[0]

    # -- facts ------------------------------------------------------------------------------------------------------

    def publish(self, fact, *, event_id=None, at_s=0.0, environment="production", sequence=None, sender=None) -> Event:
        """Publish a fact of another service; `at_s` seconds off the true time, by its publisher's clock."""
        self._ids += 1
        event = Event[type(fact)](
            id=event_id or f"e-{self._ids}",
            source=f.source_for(type(fact)) if sender is None else source_of(sender),
            type=fact.TYPE,
            subject=f.MODEL,
            time=self.clock.true_time() + f.timedelta(seconds=at_s),
            correlationid="r-7",
            environment=environment,
            data=fact,
        )
        message = self.log.append(event) if not isinstance(fact, cf.InferenceBatch) else None
        stored_at = message.stored_at if message else self.clock.true_time()
        number = sequence or (message.sequence if message else 0)
        if (type(fact), environment) in SERVICES[SERVICE].reads:
            self.streams.put(Message(number, message.event if message else event, stored_at))
        if self.bus is not None:
            self.bus.deliver()
        return event

    def open_releases(self, *versions, triggers=TRIGGERS, **declared) -> None:
        """Publish that versions were released under a policy, which is signed with them."""
        for version in versions:
            policy = self.proofs.policies[version] = f.policy(triggers=triggers, **declared)
            self.publish(f.fact(cf.ReleaseOpened, version=version, release_id=f"r-{version}", policy=policy))

    def serve(self, active=7, previous=6, *, canary=None, history=(5,), **changes):
        """Set production's route."""
        share = f.CanaryShare(served=f.served(canary), weight_ratio=0.2) if canary else None
        route = f.route(
            **{
                "active": f.served(active) if active else None,
                "previous": f.served(previous) if previous else None,
                "canary": share,
                "history": tuple(map(f.served, history)),
                "quarantined": (),
                "cause_id": "before",
            }
            | changes
        )
        self.routes.set("production", route)
        return route

    def alert(self, version=7, *, trigger="slow", kind=cf.AlertRaised, number=1, **about):
        """Return a fact about an alert, raised when it was first asked for."""
        alert_id = f"{f.target(version)}/{trigger}/{number}"
        whole = {
            "alert_id": alert_id,
            "kind": "latency",
            "severity": "critical",
            "target": f.target(version),
            "trigger": trigger,
            "message": "slow",
            "first_bad_at": self.clock.true_time(),
            "raised_at": self._raised.setdefault(alert_id, self.clock.true_time()),
        }
        return kind(**(whole | about))

    def requests(self, version=6, count=8, environment="production", **changes) -> None:
        """Publish how requests to a version fared just now."""
        now = self.clock.true_time()
        about = {"target": f.target(version), "scheduled_at": now, "sent_at": now, "ttft_ms": 50.0, "e2e_ms": 90.0}
        plain = {"error": None, "drill": None, "canary": False, "environment": environment}
        records = [
            f.inference(**(about | plain | {"request_id": f"q-{self._ids}-{n}"} | changes)) for n in range(count)
        ]
        self.publish(cf.InferenceBatch(gateway="g", records=tuple(records)), environment=environment)

    # -- what came of it --------------------------------------------------------------------------------------------

    def route(self, environment="production"):
        """Return a route as gateways see it."""
        entry = self.routes.entries.get((environment, f.MODEL))
        return entry.value if entry else None

    def state(self, environment="production") -> RollbackState:
        """Return the record."""
        _, data = self.bucket.data.get(f"{environment}.{f.MODEL}", (0, b""))
        if not data:
            return RollbackState(model=f.MODEL, environment=environment)
        return parse(RollbackState, data, "rollbacks")

    def published(self, environment="production"):
        """Return what the controller published: type, and what identifies it, in the order of the log."""
        ours = [message.event for message in self.log.stored if message.event.source == f"/slipway/{SERVICE}"]
        return [(event.type, event.id) for event in ours if event.environment == environment]

    def refusals(self):
        """Return the answers to refused orders, as `published` does.

        The bus publishes them, not the outbox of a record: once within the dedupe window.
        """
        begun = {fact.rollback_id for fact in self.log.facts(cf.RollbackStarted)}
        answers = [
            message.event
            for message in self.log.stored
            if isinstance(message.event.data, cf.OrderRefused | cf.RollbackFailed)
        ]
        manual = [event for event in answers if getattr(event.data, "mode", "manual") == "manual"]
        return {(event.type, event.id) for event in manual if getattr(event.data, "rollback_id", None) not in begun}

    def check(self) -> None:
        """Check what must hold at any time: nothing twice, epochs rise, and no quarantined target takes traffic."""
        twice = [key for key, count in Counter(self.published()).items() if count > 1 and key not in self.refusals()]
        assert twice == []
        routes = [route for environment, route in self.routes.history if environment == "production"]
        epochs = [route.epoch for route in routes]
        assert epochs == sorted(set(epochs))
        for route in routes:
            serving = [route.active, route.canary.served if route.canary and route.canary.weight_ratio > 0 else None]
            assert not any(route.is_barred(served.target) for served in serving if served is not None)
        switches = Counter(route.cause_id for route in routes)
        assert [cause for cause, count in switches.items() if count > 1] == []

    def check_ends(self) -> None:
        """Check that each rollback that began has one end, and that each one that moved traffic says so and has not failed."""
        begun = [fact.rollback_id for fact in self.log.facts(cf.RollbackStarted)]
        completed = [fact.rollback_id for fact in self.log.facts(cf.RollbackCompleted)]
        failed = [fact.rollback_id for fact in self.log.facts(cf.RollbackFailed)]
        ends = Counter([*completed, *failed])
        assert {name: ends[name] for name in begun} == dict.fromkeys(begun, 1)
        production = [route for where, route in self.routes.history if where == "production"]
        switched = [route for route in production if route.cause_id.startswith("rb-")]
        assert {route.cause_id for route in switched} == set(completed), "traffic moved, so it is no failure"
        published = [fact.route for fact in self.log.facts(cf.DeploymentChanged) if fact.cause in ("rollback", "abort")]
        assert sorted(published, key=str) == sorted(switched, key=str), "each switch is announced once, as it was"

    def outcome(self):
        """Return the end of it all, without its times: two runs of one story must end alike.

        An alert that lasts is published again and again, and any of these facts may be the one that is decided on.
        """
        state = self.state()
        causes = {
            message.event.id: getattr(message.event.data, "alert_id", message.event.id) for message in self.log.stored
        }
        names = {rollback.rollback_id: causes.get(rollback.cause_id, rollback.cause_id) for rollback in state.rollbacks}
        route = self.route()
        suspended = tuple(entry.model_copy(update={"since": f.START}) for entry in route.suspended)
        ours = [message.event for message in self.log.stored if message.event.source == f"/slipway/{SERVICE}"]
        return {
            "route": route.model_copy(
                update={"cause_id": names.get(route.cause_id, route.cause_id), "suspended": suspended}
            ),
            "published": sorted((event.type, causes.get(event.causationid, event.causationid)) for event in ours),
            "ends": sorted(
                (names[rollback.rollback_id], rollback.phase, rollback.verdict, rollback.code)
                for rollback in state.rollbacks
            ),
            "outbox": state.outbox,
            "unacknowledged": self.streams.unacknowledged(),
            "dead_letters": self.streams.dead_letters,
        }

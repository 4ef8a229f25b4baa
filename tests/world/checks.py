"""What must hold: at every step, and at the end of a story."""

import json
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nats.js.api import RawStreamMsg

from contracts.facts import (
    CheckpointRejected,
    ReleaseFinished,
    ReleaseOpened,
    RollbackCompleted,
    RollbackFailed,
    RollbackStarted,
    TrafficRequested,
    VersionRegistered,
)
from contracts.routes import Route
from contracts.services import DEADLETTER, EVENTS
from services.server_manager.domain.reconcile import plan_production
from shared.storage.record_format import parse
from tests.world.person import REFUSED

if TYPE_CHECKING:
    from tests.world.gateway import Answer
    from tests.world.world import World


WORKERS = ("merger", "quantiser", "benchmarker", "evaluator")
LEARNT_S = 10.0
"""By then a gateway has the first route of a model."""
LATE_S = 45.0
"""How old a message may be that is not finished at the end: some are late, and come again."""


class Checks:
    """Notes in `world.violations` what must not be."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.route: Route | None = None
        self.served_since_s: float | None = None
        self.active_since_s = 0.0
        self.facts: list[tuple[float, dict[str, Any]]] = []
        """The facts of the log, each with its second of the story."""
        world.server.stored.append(self._note)

    def of(self, kind: type, environment: str = "production") -> list[dict[str, Any]]:
        """Return the data of the facts of a type."""
        kind_type = kind.TYPE  # type: ignore[attr-defined]
        facts = [fact for _, fact in self.facts]
        return [fact["data"] for fact in facts if (fact["type"], fact.get("environment")) == (kind_type, environment)]

    # -- at every step ---------------------------------------------------------------------------------------------

    def _note(self, message: RawStreamMsg) -> None:
        if message.stream == "KV_routes":
            self._check_route(parse(Route, message.data or b"", "routes"))
        elif message.stream == EVENTS:
            fact = json.loads(message.data or b"{}")
            self.facts.append((self._world.now_s, fact))
            if fact["type"] == TrafficRequested.TYPE:
                self._check_approved(fact["data"]["release_id"])
        elif message.stream == DEADLETTER:
            headers = message.headers or {}
            self._world.violated(f"a dead letter: {headers.get('Slipway-Subject')}: {headers.get('Slipway-Reason')}")

    def _check_route(self, route: Route) -> None:
        """Epochs rise, except of a route that is written again into a new bucket; nothing barred takes traffic."""
        before, self.route = self.route, route
        if route.active != (before and before.active):
            self.active_since_s = self._world.now_s
        if self.served_since_s is None and route.active is not None:
            self.served_since_s = self._world.now_s
        is_restored = self._world.server.lost and route == before
        if before is not None and route.epoch <= before.epoch and not is_restored:
            self._world.violated(f"epoch {route.epoch} after {before.epoch}")
        for served in route.in_traffic:
            if route.is_barred(served.target):
                self._world.violated(f"{served.target} is barred and takes traffic at epoch {route.epoch}")

            self._check_shadowed(before, served.target.version)

    def _check_shadowed(self, before: Route | None, version: int) -> None:
        """Note a bad version whose shadow did not keep it out of traffic; a first version has no shadow."""
        if before is None or before.active is None or version in {each.target.version for each in before.in_traffic}:
            return
        for opened in self.of(ReleaseOpened):
            is_bad = self._world.kinds[opened["release_id"]] == "bad" and opened["version"] == version
            if is_bad and opened["policy"].get("shadow") and not opened.get("returns"):
                self._world.violated(f"version {version} is bad, has a shadow, and takes traffic")

    def _check_approved(self, release_id: str) -> None:
        """Note an order for traffic that was to wait for an approval."""
        for opened in self.of(ReleaseOpened):
            is_manual = opened["release_id"] == release_id and opened["policy"]["promotion"]["mode"] == "manual"
            if is_manual and release_id not in self._world.person.approved:
                self._world.violated(f"release {release_id} takes traffic before it is approved")

    def check_memory(self, name: str, memory_bytes: int) -> None:
        """Note a load for which there is no memory."""
        used = sum(model.memory_bytes for other, model in self._world.engine.models.items() if other != name)
        if used + memory_bytes > 1000:
            self._world.violated(f"{name} is loaded into memory that is not there")

    def check_unload(self, name: str) -> None:
        """Note the unloading of what production needs and what is well."""
        engine, needed = self._world.engine, {}
        if self.route is not None:
            needed = plan_production({self.route.model: self.route})
        is_well = name in engine.models and name not in engine.dead | engine.mute
        if is_well and name in needed and engine.models[name].digest == needed[name].manifest.digest:
            self._world.violated(f"{name} is unloaded, and production needs it")

    def check_lost(self, answer: "Answer") -> None:
        """Note a request that was lost although nothing explains it."""
        world = self._world
        served_s = self.served_since_s
        if answer.failed == "no_serving_target":
            disturbed = any(
                fault.service.startswith("gateway") or fault.kind == "bus away" for fault in world.fate.faults
            )
            explained = served_s is None or disturbed or world.now_s < served_s + LEARNT_S
        elif answer.failed == "engine_failed":
            versions = [version for version, (since_s, _) in world.bad.items() if world.now_s >= since_s]
            explained = answer.drilled or any(f".v{version}." in answer.tried for version in versions)
        else:
            explained = any(
                fault.kind.startswith("engine") and fault.at_s <= world.now_s for fault in world.fate.faults
            )
        if not explained:
            world.violated(f"a request to {answer.tried or 'the gateway'} is lost without a fault: {answer.failed}")

    def all_ended(self) -> bool:
        """Return whether releases and rollbacks have ended, facts are published, messages finished, orders answered."""
        opened, ended = ({fact["release_id"] for fact in self.of(kind)} for kind in (ReleaseOpened, ReleaseFinished))
        begun = {fact["rollback_id"] for fact in self.of(RollbackStarted)}
        over = {fact["rollback_id"] for kind in (RollbackCompleted, RollbackFailed) for fact in self.of(kind)}
        if opened != ended or begun != over:
            return False
        return not (self._unpublished() or self._unfinished() or self._world.person.unanswered())

    # -- at the end ------------------------------------------------------------------------------------------------

    def check_end(self) -> None:
        """Note what is not as it must be once all faults are over and everything had time."""
        self._check_releases()
        self._check_outcomes()
        self._check_rollbacks()
        for unpublished in self._unpublished():
            self._world.violated(unpublished)
        self._check_staging()
        self._world.person.check_end()
        for name in self._unfinished():
            self._world.violated(f"{name} has messages that nothing finishes")
        route = self.route
        if route is None or route.active is None:
            cancelled = {fact["release_id"] for fact in self.of(ReleaseOpened)} <= self._world.person.cancelled
            if not cancelled and {"KV_releases", "KV_servers"}.isdisjoint(self._world.server.lost):
                self._world.violated("nothing serves")
            return
        world = self._world
        share = world.bad.get(route.active.target.version, (0.0, 0.0))[1]
        if share >= 0.4:
            self._world.violated(f"{route.active.target} has {share:.0%} bad answers and is active")
        for served in (route.active, route.previous):
            gone = served is not None and not (
                str(served.target) in world.engine.models or world.attached.lists(served)
            )
            if served is not None and gone and not (world.fate.attached and served is route.previous):
                self._world.violated(f"{served.target} is on the route and not loaded")
        if any(fault.kind.startswith("engine") for fault in world.fate.faults):
            return  # an engine that answers nothing is left at once, and judged later by its shadow
        if "KV_releases" in world.server.lost:
            return  # the canary of a release whose record is lost ends: its version comes back as another
        kept_down = {*route.quarantined, *(entry.served.target for entry in route.suspended)}
        for target in kept_down:
            if world.bad.get(target.version, (0.0, 0.0))[1] == 0.0 and target.version not in world.person.against:
                self._world.violated(f"{target} has no bad answers and is kept down")

    def _check_releases(self) -> None:
        opened = [fact["release_id"] for fact in self.of(ReleaseOpened)]
        finished = Counter(fact["release_id"] for fact in self.of(ReleaseFinished))
        announced = self._world.server.streams["SLIPWAY_INBOX"].last
        rejected = [fact["causationid"] for _, fact in self.facts if fact["type"] == CheckpointRejected.TYPE]
        returns = sum(fact.get("returns") is not None for fact in self.of(ReleaseOpened))
        is_short = len(set(opened)) - returns + len(rejected) < announced  # a lost record may have had to publish one
        if (is_short and "KV_releases" not in self._world.server.lost) or rejected not in ([], [REFUSED]):
            self._world.violated(f"{announced} checkpoints, {len(set(opened))} releases, rejected: {rejected}")
        for release_id in dict.fromkeys(opened):
            if finished[release_id] != 1 and not self._is_forgotten(release_id, finished[release_id]):
                self._world.violated(f"release {release_id} has {finished[release_id]} ends")

    def _is_forgotten(self, release_id: str, ends: int) -> bool:
        """Return whether the lost record of a release, of which an alert tells, explains that it has not one end.

        It has none without a version, or if no fact of a worker named it since; and two if it had ended before.
        """
        faults = self._world.fate.faults
        lost_s = [fault.at_s for fault in faults if (fault.kind, fault.service) == ("bucket lost", "releases")]
        facts = [(at_s, fact) for at_s, fact in self.facts if fact["correlationid"] == release_id]
        known = any(fact["type"] == VersionRegistered.TYPE for _, fact in facts)
        named = any(fact["source"].rpartition("/")[2] in WORKERS and at_s > lost_s[0] for at_s, fact in facts if lost_s)
        ended_s = [at_s for at_s, fact in facts if fact["type"] == ReleaseFinished.TYPE]
        return bool(lost_s) and (not (known and named) if ends == 0 else ends == 2 and ended_s[0] < lost_s[0])

    def _check_outcomes(self) -> None:
        """A version with many bad answers is never promoted, and one without any always is.

        The first version has nothing to be compared with; an older one that comes after a newer one ends superseded.
        """
        person = self._world.person
        disturbed = any(fault.kind.startswith("engine") for fault in self._world.fate.faults)
        promoted = [fact["release_id"] for fact in self.of(ReleaseFinished) if fact["outcome"] == "promoted"]
        for fact in self.of(ReleaseFinished):
            kind, outcome = self._world.kinds[fact["release_id"]], fact["outcome"]
            if kind == "bad" and fact["release_id"] in promoted[1:]:
                self._world.violated(f"release {fact['release_id']} of a bad version is promoted")
            ordered = fact["release_id"] in person.cancelled or fact["version"] in person.against
            ordered |= fact.get("code") == "stale_epoch" and bool(person.against)  # a rollback by hand came between
            ordered |= outcome == "aborted" and "KV_releases" in self._world.server.lost
            ordered |= fact.get("code") == "rehearsal_failed" and "KV_rollbacks" in self._world.server.lost
            if kind == "good" and outcome not in ("promoted", "superseded") and not (disturbed or ordered):
                self._world.violated(f"release {fact['release_id']} of a good version is {outcome}: {fact['reason']}")

    def _check_rollbacks(self) -> None:
        begun = [fact["rollback_id"] for fact in self.of(RollbackStarted)]
        ends = Counter(fact["rollback_id"] for kind in (RollbackCompleted, RollbackFailed) for fact in self.of(kind))
        for name in begun:
            if ends[name] != 1:
                self._world.violated(f"rollback {name} has {ends[name]} ends")

    def _unfinished(self) -> list[str]:
        """Return the consumers with messages that are too late."""
        return self._world.consumers.unfinished(self._world.clock.true_time() - timedelta(seconds=LATE_S))

    def _unpublished(self) -> list[str]:
        """Return the records with facts to publish, and the types of these facts."""
        unpublished = []
        for name, stream in self._world.server.streams.items():
            for subject, numbers in stream.subjects.items() if name.startswith("KV_") else ():
                record = json.loads(stream.messages[numbers[-1]].data or b"{}")
                if record.get("outbox"):
                    unpublished.append(f"{subject} still has to publish {[each['type'] for each in record['outbox']]}")
        return unpublished

    def _check_staging(self) -> None:
        """Note what a rehearsal has left: a route, or a fault that goes on."""
        for name, left in (("KV_staging-routes", "active"), ("KV_drills", "share_ratio")):
            stream = self._world.server.streams[name]
            for subject, numbers in stream.subjects.items():
                record = json.loads(stream.messages[numbers[-1]].data or b"{}")
                is_staging = record.get("environment", "staging") == "staging"
                if is_staging and record.get(left) and "KV_rollbacks" not in self._world.server.lost:
                    self._world.violated(f"{subject} is left by a rehearsal")

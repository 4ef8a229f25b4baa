"""The sweep itself: plan what nothing refers to, wait, decide about each object against its writers, remove it."""

import secrets
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from clients.cli.gc.store import Listed, SweepStore
from contracts.garbage import DECISIONS, MOST_PLANNED, OPEN, PLAN, PREFIX, SWEPT, GcPlan
from contracts.store_access import DATA_FORMAT, PROBE
from contracts.vocabulary import canonical_json, digest_of
from decisions.sealed_log.garbage import (
    DOCUMENT_BYTES,
    decision_key,
    is_candidate,
    is_document,
    mark_key,
    name_of,
    names_in,
    reached,
)
from shared.storage.objects import AlreadyExists

HISTORY = ("audit/", PREFIX, PROBE, DATA_FORMAT)
"""Objects that name others and hold none of them: what happened is known without them."""
CLOCKS = timedelta(hours=1)
"""How far the clocks of this machine and of the store may be apart."""
_ATTESTATIONS = "attestations/"


@dataclass
class Swept:
    """What came of a plan.

    Attributes:
        removed: Sizes of what was removed, by key.
        kept: Objects that something refers to now, or that a writer claimed.
        locked: Objects that the store keeps because they are under lock.
        overtaken: The plan had ended before this sweep did: another one carried it out, or its mark was removed.
    """

    removed: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)
    overtaken: bool = False


@dataclass
class Sweeper:
    """One run of `slipway gc`, or a part of it.

    `plan_steps` and `sweep_steps` yield after each request that changes or reads the store, so that tests can let
    writers work in between.

    Attributes:
        names: Returns the digests that records and events name now.
        young: How old an object must be to be planned.
        clock: Returns the time of now.
        most: How many objects a plan names at most.
    """

    store: SweepStore
    names: Callable[[], set[str]]
    young: timedelta
    clock: Callable[[], datetime]
    most: int = MOST_PLANNED

    def find_plan(self) -> GcPlan | None:
        """Return the plan that waits, or is being carried out; None if there is none."""
        data = self.store.find(PLAN)
        return GcPlan.model_validate_json(data) if data is not None else None

    def unreferenced(self, now: datetime) -> dict[str, int]:
        """Return sizes of what nothing refers to now and that is old enough, by key."""
        listed = self.store.listing()
        old = {key: each for key, each in listed.items() if is_candidate(key) and each.modified <= now - self.young}
        kept = self._reached(listed, since=now - self.young)
        return {key: each.size for key, each in old.items() if key not in kept}

    def _reached(self, listed: Mapping[str, Listed], since: datetime, planned: Collection[str] = ()) -> set[str]:
        """Return the candidates that something refers to: records, events, other objects, and any younger object.

        Args:
            listed: All objects.
            since: From when on an object is a younger one.
            planned: Objects that are none.
        """
        names = set(self.names())
        for key, each in listed.items():
            holds = not key.startswith(HISTORY) and not is_candidate(key)
            fresh = key not in planned and is_candidate(key) and each.modified > since and is_document(key, each.size)
            if (holds and each.size <= DOCUMENT_BYTES) or fresh:
                names |= names_in(self.store.find(key) or b"")
        candidates = {key: each.size for key, each in listed.items() if is_candidate(key)}
        return reached(names, candidates, self.store.find)

    def plan_steps(self, wait: timedelta) -> Generator[None]:
        """Write the plan of what nothing refers to now; what it names is not removed yet.

        Of more objects than a plan may name, documents are planned before what they refer to: what stays in the store
        until the next plan then refers to nothing that this one removes. The wait begins when the plan is written: that
        may be long after the search for what it names began, and no writer knows the plan before. Its mark is written
        first: a plan without one is never carried out.
        """
        marked_at = self.clock()
        unreferenced = self.unreferenced(marked_at)
        ordered = in_order(unreferenced, unreferenced, self.store.find)
        objects = {key: unreferenced[key] for key in ordered[: self.most]}
        yield
        self._forget()  # claims that came too late for an earlier plan
        name = secrets.token_hex(8)
        self.store.create(mark_key(name), OPEN)
        yield
        plan = GcPlan(id=name, marked_at=marked_at, sweep_after=self.clock() + wait, objects=objects)
        try:
            self.store.create(PLAN, canonical_json(plan.model_dump(mode="json")))
        except AlreadyExists:
            self.store.erase(mark_key(name))
            raise
        yield

    def sweep_steps(self, plan: GcPlan, swept: Swept) -> Iterator[None]:
        """Carry out a plan whose time has come; an interrupted one goes on.

        Its mark is removed first at the end: then no sweep removes anything by it, and claims on it are not needed.
        """
        if self._stands(plan):
            yield from self._remove_steps(plan, swept)
        else:
            swept.overtaken = True
        self.store.erase(mark_key(plan.id))
        yield
        self._erase_plan(plan)
        yield
        self._forget()

    def _erase_plan(self, plan: GcPlan) -> None:
        """Remove a plan, but no other one."""
        current = self.find_plan()
        if current is not None and current.id == plan.id:
            self.store.erase(PLAN)

    def _remove_steps(self, plan: GcPlan, swept: Swept) -> Iterator[None]:
        """Decide about each object of a plan, and remove what no writer claimed and nothing refers to.

        Documents are decided on before what they refer to. A writer that keeps one keeps all that it refers to, and one
        that is swept refers to nothing any more. Attestations follow what they attest. Each object is removed as soon
        as that is decided, and the decision after it: of an interrupted sweep, writers wait for one object at most.
        """
        listed = self.store.listing()
        there = {key for key in plan.objects if key in listed and listed[key].modified <= plan.marked_at}
        kept = self._reached(listed, plan.marked_at - CLOCKS, there)
        yield
        sizes = {key: listed[key].size for key in there}
        for key in in_order(there, sizes, self.store.find):
            if key not in kept and self._sweeps(plan, key):
                yield
                if not self._stands(plan):  # claims of writers are forgotten, so that the decision means nothing
                    self.store.erase(decision_key(plan.id, key))
                    swept.overtaken = True
                    return
                yield
                if self.store.erase(key, plan.marked_at):  # not what was written again, after another sweep
                    swept.removed[key] = sizes[key]
                else:
                    swept.locked.append(key)
                yield
                self.store.erase(decision_key(plan.id, key))
            elif key not in kept and is_document(key, sizes[key]):
                kept |= {key} | self._held_by(self.store.find(key), listed)
            yield
        gone = {*swept.removed, *swept.locked}
        swept.kept = [key for key in plan.objects if key in listed and key not in gone]

    def _stands(self, plan: GcPlan) -> bool:
        """Return whether a plan may be carried out: no other sweep has done so."""
        return self.store.find(mark_key(plan.id)) == OPEN

    def _sweeps(self, plan: GcPlan, key: str) -> bool:
        """Return whether an object is swept: the first to write the decision decides, the sweep or a writer."""
        decision = decision_key(plan.id, key)
        try:
            self.store.create(decision, SWEPT)
        except AlreadyExists:
            return self.store.find(decision) == SWEPT  # of an interrupted sweep; None: another one has removed it
        return True

    def _forget(self) -> None:
        """Remove what was decided about objects of plans that are carried out; nothing of the plan that stands.

        The plan is read after the list: what is listed of any other plan belongs to one that has ended.
        """
        listed, plan = self.store.listing(), self.find_plan()
        for key in listed:
            if key.startswith(DECISIONS) and (plan is None or not key.startswith(decision_key(plan.id, ""))):
                self.store.erase(key)

    def _held_by(self, data: bytes | None, listed: Mapping[str, Listed]) -> set[str]:
        if data is None:
            return set()
        candidates = {key: each.size for key, each in listed.items() if is_candidate(key)}
        names = names_in(data) | {digest_of(data).removeprefix("sha256:")}
        return reached(names, candidates, self.store.find)


def in_order(keys: Iterable[str], sizes: Mapping[str, int], read: Callable[[str], bytes | None]) -> list[str]:
    """Return keys so that a document comes before what it refers to, then attestations, then blobs."""
    documents = [key for key in keys if is_document(key, sizes[key]) and not key.startswith(_ATTESTATIONS)]
    by_name = {name_of(key): key for key in documents}
    refers = {key: {by_name[name] for name in names_in(read(key) or b"") if name in by_name} for key in documents}
    ordered: list[str] = []
    visited: set[str] = set()

    def visit(key: str) -> None:
        if key not in visited:
            visited.add(key)
            for other in sorted(refers[key]):
                visit(other)
            ordered.append(key)

    for key in sorted(documents):
        visit(key)
    ordered.reverse()
    others = sorted(set(keys) - set(documents), key=lambda key: (not key.startswith(_ATTESTATIONS), key))
    return [*ordered, *others]

"""Sweeping the store: what is held, by what, and that no release loses what it found, however the steps interleave."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clients.cli.gc.roots import HOLDING, SUBJECTS, has_ended
from clients.cli.gc.sweeping import Sweeper, Swept, in_order
from contracts.envelope import nats_subject
from contracts.facts import FACTS
from contracts.garbage import DECISIONS, PLAN, PLAN_READ_S, SHORTEST_WAIT_S, SWEPT
from contracts.vocabulary import canonical_json, digest_of
from decisions.sealed_log.garbage import decision_key, is_candidate, is_document, mark_key, name_of, names_in, reached
from shared.errors import Permanent, Transient
from shared.storage.blobs import blob_key, manifest_key
from shared.storage.claims import Claims
from shared.storage.objects import AlreadyExists
from tests.kit.conformance_sweep import SweepStoreConformance
from tests.kit.fakes_gc import FakeSweepStore, Hooked
from tests.kit.soak import often

BEGIN = datetime(2026, 11, 27, tzinfo=UTC)
WAIT, YOUNG = timedelta(seconds=SHORTEST_WAIT_S), timedelta(hours=2)
BLOBS = [f"blob {number}".encode() for number in range(4)]


class TestFakeSweepStore(SweepStoreConformance):
    @pytest.fixture
    def store(self):
        return FakeSweepStore(lambda: BEGIN)

    @pytest.fixture
    def lock(self, store):
        return store.locked.add


def key_of(data: bytes) -> str:
    return blob_key(digest_of(data))


def document(*named: str) -> bytes:
    return canonical_json({"files": list(named)})


def put(store, key, data):
    store.create(key, data)
    return key


# -- what holds what ---------------------------------------------------------------------------------------------------


def test_names_are_found_in_any_field_and_in_signed_payloads():
    digest, other = "a" * 64, "b" * 64
    payload = base64.b64encode(json.dumps({"subject": [{"digest": {"sha256": other}}]}).encode()).decode()
    envelope = json.dumps({"uri": f"s3://slipway/manifests/merged/{digest}.json", "dsse": {"payload": payload}})
    assert names_in(envelope.encode()) == {digest, other}
    assert names_in(b'{"payload": "no base64!", "x": "' + b"c" * 63 + b'"}') == set()
    assert names_in(b'{"payload": "AAA"}') == set()


@pytest.mark.parametrize(
    ("key", "candidate", "is_doc"),
    [
        ("blobs/sha256/aa/" + "a" * 64, True, False),
        ("checkpoints/tiny/blobs/sha256/aa/" + "a" * 64, True, False),
        ("checkpoints/tiny/manifests/folder/" + "a" * 64 + ".json", True, True),
        ("attestations/merge/" + "a" * 64 + "/0123456789abcdef.json", True, True),
        ("versions/tiny/1/" + "a" * 64 + ".json", False, True),
        ("manifests/drift/" + "a" * 64 + ".json", False, True),
        ("blobs/readme", False, True),
        ("audit/000001.jsonl", False, True),
    ],
)
def test_only_what_is_named_by_a_digest_may_be_removed(key, candidate, is_doc):
    assert is_candidate(key) == candidate
    assert is_document(key, 10) == is_doc


def test_an_attestation_stays_with_what_it_attests():
    manifest = document("x")
    digest = digest_of(manifest).removeprefix("sha256:")
    objects = {
        "manifests/merged/" + "1" * 64 + ".json": manifest,
        f"attestations/merge/{digest}/0123.json": b"{}",
        "attestations/merge/" + "2" * 64 + "/0123.json": b"{}",
    }
    kept = reached({"1" * 64}, {key: len(data) for key, data in objects.items()}, objects.get)
    assert kept == {"manifests/merged/" + "1" * 64 + ".json", f"attestations/merge/{digest}/0123.json"}
    assert name_of("attestations/merge/" + "2" * 64 + "/0123.json") == "2" * 64


def test_records_of_releases_that_have_ended_hold_nothing():
    assert has_ended(b'{"finished": {"outcome": "rejected"}, "outbox": []}')
    assert not has_ended(b'{"finished": {"outcome": "rejected"}, "outbox": [{}]}')
    assert not has_ended(b'{"finished": null}')
    assert not has_ended(b"{}")
    assert not has_ended(b"[1]")
    assert not has_ended(b"no json")


def test_events_that_hold_something_are_read_by_the_subjects_that_they_are_published_on():
    kinds = {fact.TYPE.split(".")[1] for fact in FACTS.values()}
    assert set(HOLDING) <= kinds
    for fact in FACTS.values():
        for environment in ("production", "staging"):
            subject = nats_subject(fact.TYPE, "tiny", "registry", environment)
            read = any(subject.startswith(pattern.removesuffix(">")) for pattern in SUBJECTS)
            assert read == (fact.TYPE.split(".")[1] in HOLDING), subject


def world(names=(), age=timedelta(days=8)):
    """A store whose objects are old; the clock is then moved on by `later`."""
    times = [BEGIN - age]
    store = FakeSweepStore(lambda: times[0])
    return store, Sweeper(store, lambda: set(names), YOUNG, lambda: times[0]), times


def test_what_versions_holds_and_young_documents_name_stays():
    store, sweeper, times = world()
    of_version, held, of_young, lost = (put(store, key_of(data), data) for data in BLOBS)
    put(store, "versions/tiny/1/manifest.json", document(digest_of(BLOBS[0])))
    put(store, "holds/audit-2026.json", b'"' + digest_of(BLOBS[1]).encode() + b'"')
    put(store, "audit/000001.jsonl", digest_of(BLOBS[3]).encode())
    times[0] = BEGIN - timedelta(minutes=1)
    put(store, "manifests/merged/" + "1" * 64 + ".json", document(digest_of(BLOBS[2])))
    assert sweeper.unreferenced(BEGIN) == {lost: len(BLOBS[3])}
    assert {of_version, held, of_young}.isdisjoint(sweeper.unreferenced(BEGIN))


def sweep(sweeper, now):
    swept = Swept()
    for _ in sweeper.sweep_steps(sweeper.find_plan(), swept):
        pass
    return swept


def test_what_is_planned_is_removed_later_and_nothing_of_the_plan_is_left():
    store, sweeper, times = world()
    lost, locked = put(store, key_of(BLOBS[0]), BLOBS[0]), put(store, key_of(BLOBS[1]), BLOBS[1])
    store.locked.add(locked)
    times[0] = BEGIN
    list(sweeper.plan_steps(WAIT))
    assert lost in store.objects
    swept = sweep(sweeper, BEGIN + WAIT)
    assert (swept.removed, swept.locked, swept.kept) == ({lost: len(BLOBS[0])}, [locked], [])
    assert set(store.objects) == {locked}


def test_an_interrupted_sweep_goes_on_wherever_it_was_interrupted():
    for steps in range(20):
        store, sweeper, times = world()
        keys = [put(store, key_of(data), data) for data in BLOBS]
        times[0] = BEGIN
        list(sweeper.plan_steps(WAIT))
        begun = sweeper.sweep_steps(sweeper.find_plan(), Swept())
        for _ in range(steps):
            next(begun, None)
        begun.close()
        if sweeper.find_plan() is not None:
            sweep(sweeper, BEGIN + WAIT)
        assert not set(keys) & set(store.objects), steps


def test_an_interrupted_sweep_makes_writers_wait_for_one_object_at_most():
    waited = set()
    for steps in range(20):
        store, sweeper, times = world()
        keys = [put(store, key_of(data), data) for data in BLOBS]
        times[0] = BEGIN
        list(sweeper.plan_steps(WAIT))
        begun = sweeper.sweep_steps(sweeper.find_plan(), Swept())
        for _ in range(steps):
            next(begun, None)
        begun.close()
        refused, claims = [], Claims(lambda: 0.0)
        for key, data in zip(keys, BLOBS, strict=True):
            try:
                claims.claim(store, key, AlreadyExists)
            except Transient:
                refused.append(key)
            else:
                if store.find(key) is None:
                    times[0] = BEGIN + WAIT
                    store.create(key, data)
        waited.add(len(refused))
        if sweeper.find_plan() is not None:
            sweep(sweeper, BEGIN + WAIT)
        assert set(keys) - set(refused) <= set(store.objects), "what a writer claimed stays when the sweep goes on"
    assert waited == {0, 1}


def test_of_two_sweeps_at_once_the_slower_one_keeps_what_was_written_again():
    store, sweeper, times = world()
    key = put(store, key_of(BLOBS[0]), BLOBS[0])
    times[0] = BEGIN
    list(sweeper.plan_steps(WAIT))
    plan = sweeper.find_plan()
    slower, faster = sweeper.sweep_steps(plan, Swept()), sweeper.sweep_steps(plan, Swept())
    for sweeping in (slower, faster):
        next(sweeping)
        next(sweeping)
    assert store.find(decision_key(plan.id, key)) == SWEPT
    while store.find(decision_key(plan.id, key)) is not None:
        next(faster)
    times[0] = BEGIN + WAIT
    Claims(lambda: 0.0).claim(store, key, AlreadyExists)
    put(store, key, BLOBS[0])
    list(slower)
    assert store.find(key) == BLOBS[0]


def test_of_two_sweeps_at_once_the_slower_one_keeps_what_a_writer_claimed():
    """The faster one ends the plan and forgets the claims."""
    for steps in range(1, 20):
        store, sweeper, times = world()
        key, *_ = [put(store, key_of(data), data) for data in BLOBS]
        times[0] = BEGIN
        list(sweeper.plan_steps(WAIT))
        plan = sweeper.find_plan()
        Claims(lambda: 0.0).claim(store, key, AlreadyExists)
        slower = sweeper.sweep_steps(plan, swept := Swept())
        for _ in range(steps):
            next(slower, None)
        list(sweeper.sweep_steps(plan, Swept()))
        list(slower)
        assert store.find(key) is not None, steps
        assert list(store.objects) == [key]
    assert not swept.overtaken


def test_a_sweep_that_ends_late_leaves_the_next_plan_and_its_claims_alone():
    store, sweeper, times = world()
    for data in BLOBS:
        put(store, key_of(data), data)
    times[0] = BEGIN
    list(sweeper.plan_steps(WAIT))
    slower = sweeper.sweep_steps(sweeper.find_plan(), swept := Swept())
    next(slower)
    list(sweeper.sweep_steps(sweeper.find_plan(), Swept()))
    again = put(store, key_of(BLOBS[0]), BLOBS[0])
    times[0] = BEGIN + timedelta(days=30)
    list(sweeper.plan_steps(WAIT))
    plan = sweeper.find_plan()
    Claims(lambda: 0.0).claim(store, again, AlreadyExists)
    list(slower)
    assert swept.removed == {}
    assert sweeper.find_plan() == plan
    sweep(sweeper, times[0] + WAIT)
    assert store.find(again) is not None


def test_who_plans_too_late_leaves_the_claims_on_the_other_plan_alone():
    store, sweeper, times = world()
    key, *_ = [put(store, key_of(data), data) for data in BLOBS]
    times[0] = BEGIN
    slower = sweeper.plan_steps(WAIT)
    next(slower)
    list(sweeper.plan_steps(WAIT))
    Claims(lambda: 0.0).claim(store, key, AlreadyExists)
    with pytest.raises(AlreadyExists):
        list(slower)
    assert [each for each in store.objects if each.endswith(PLAN)] == [mark_key(sweeper.find_plan().id), PLAN]
    sweep(sweeper, BEGIN + WAIT)
    assert list(store.objects) == [key]


def test_the_wait_of_a_plan_begins_when_it_is_written():
    """A writer that has just seen no plan looks again after a minute; the search for what to plan may take longer."""
    store, sweeper, times = world()
    put(store, key_of(BLOBS[0]), BLOBS[0])
    times[0] = BEGIN
    planning = sweeper.plan_steps(WAIT)
    next(planning)
    times[0] = BEGIN + timedelta(minutes=10)
    list(planning)
    plan = sweeper.find_plan()
    assert (plan.marked_at, plan.sweep_after) == (BEGIN, times[0] + WAIT)


def test_a_writer_of_a_plan_may_be_killed_at_any_step():
    for steps in range(4):
        store, sweeper, times = world()
        put(store, key_of(BLOBS[0]), BLOBS[0])
        times[0] = BEGIN
        begun = sweeper.plan_steps(WAIT)
        for _ in range(steps):
            next(begun, None)
        begun.close()
        if sweeper.find_plan() is None:
            list(sweeper.plan_steps(WAIT))
        sweep(sweeper, BEGIN + WAIT)
        assert store.objects == {}


def test_a_plan_without_its_mark_removes_nothing_and_ends():
    store, sweeper, times = world()
    key = put(store, key_of(BLOBS[0]), BLOBS[0])
    times[0] = BEGIN
    list(sweeper.plan_steps(WAIT))
    store.erase(mark_key(sweeper.find_plan().id))
    assert sweep(sweeper, BEGIN + WAIT).overtaken
    assert list(store.objects) == [key]


def test_a_plan_is_bounded_and_leaves_no_document_whose_files_it_removes():
    store, sweeper, times = world()
    for name in OUTPUTS:
        put(store, manifest_of(name), content_of(name))
    for data in BLOBS:
        put(store, key_of(data), data)
    times[0] = BEGIN
    for most in range(1, 8):
        sweeper.most = most
        list(sweeper.plan_steps(WAIT))
        plan = sweeper.find_plan()
        assert len(plan.objects) == most
        staying = [name for name in OUTPUTS if manifest_of(name) not in plan.objects]
        for name in staying:
            numbers, parent = OUTPUTS[name]
            assert not {key_of(BLOBS[number]) for number in numbers} & set(plan.objects)
            assert parent is None or manifest_of(parent) not in plan.objects
        store.erase(PLAN)
    sweeper.most = 3
    for _ in range(3):
        list(sweeper.plan_steps(WAIT))
        sweep(sweeper, BEGIN + WAIT)
    assert store.objects == {}, "the next plans have the rest"


@pytest.mark.parametrize("data", [b"{", b'{"id": 1}', None])
def test_a_plan_that_cannot_be_read_makes_a_writer_try_again(data):
    class Unreadable(FakeSweepStore):
        def find(self, key):
            if data is None:
                raise Permanent("artifact_not_found", f"{key} has more than 128 MiB.")
            return data

    with pytest.raises(Transient, match="cannot be read"):
        Claims(lambda: 0.0).claim(Unreadable(lambda: BEGIN), key_of(BLOBS[0]), AlreadyExists)


def test_documents_are_decided_on_before_what_they_refer_to_and_attestations_after_what_they_attest():
    objects = {
        key_of(BLOBS[0]): BLOBS[0],
        manifest_of("merged-1"): content_of("merged-1"),
        manifest_of("variant-1"): content_of("variant-1"),
        "attestations/merge/" + "0" * 64 + "/0123.json": document(manifest_of("merged-1")),
    }
    ordered = in_order(objects, {key: len(data) for key, data in objects.items()}, objects.get)
    attestation = "attestations/merge/" + "0" * 64 + "/0123.json"
    assert ordered == [manifest_of("variant-1"), manifest_of("merged-1"), attestation, key_of(BLOBS[0])]


def test_a_writer_that_comes_too_late_tries_again_and_one_that_was_first_keeps():
    store, sweeper, times = world()
    kept, lost = (put(store, key_of(data), data) for data in BLOBS[:2])
    times[0] = BEGIN
    list(sweeper.plan_steps(WAIT))
    claims = Claims(lambda: 0.0)
    claims.claim(store, kept, AlreadyExists)
    steps = sweeper.sweep_steps(sweeper.find_plan(), swept := Swept())
    while store.find(decision_key(sweeper.find_plan().id, lost)) is None:
        next(steps)
    with pytest.raises(Transient, match="is being removed"):
        claims.claim(store, lost, AlreadyExists)
    list(steps)
    assert (list(swept.removed), swept.kept) == ([lost], [kept])
    claims.claim(store, lost, AlreadyExists)  # the plan is gone: it may be written again
    assert not [key for key in store.objects if key.startswith((DECISIONS, PLAN))]


# -- beside releases ---------------------------------------------------------------------------------------------------

OUTPUTS = {  # by name: its blobs, and the output that it is made from
    "merged-1": ((0, 1), None),
    "merged-2": ((1, 2), None),
    "variant-1": ((2, 3), "merged-1"),
    "variant-2": ((0, 3), "merged-2"),
}


def manifest_of(name: str) -> str:
    kind = "merged" if name.startswith("merged") else "variant"
    return manifest_key(kind, digest_of(name.encode()))


def content_of(name: str) -> bytes:
    blobs, parent = OUTPUTS[name]
    named = [digest_of(BLOBS[number]) for number in blobs]
    return document(*named, *([manifest_of(parent)] if parent else []))


class Release:
    """A worker that makes an output, or finds it, as `shared.storage.blobs.Store` does; a step per request."""

    def __init__(self, machine: "GcBesideReleases", name: str) -> None:
        self.machine, self.name = machine, name
        self.claims = Claims(machine.seconds)
        self.relies_since: float | None = None
        """Since when it relies on what it found, without having published it."""
        self.steps = self._steps()
        self.ended = False

    def step(self) -> None:
        try:
            next(self.steps)
        except StopIteration:
            self.ended = True
        except Transient:
            self.ended = True  # delivered again later: another rule starts it anew

    def _steps(self):
        _, parent = OUTPUTS[self.name]
        for name in filter(None, (parent, self.name)):
            yield from self._make(name)
            self.machine.records.add(name)
            self.relies_since = None

    def _make(self, name: str):
        store, key = self.machine.store, manifest_of(name)
        self.relies_since = self.machine.seconds()
        self.claims.claim(store, key, AlreadyExists)
        yield
        if store.find(key) is not None:
            yield
            return
        blobs = [BLOBS[number] for number in OUTPUTS[name][0]]
        self.relies_since = None  # long work may follow
        for data in blobs:
            self.claims.claim(store, key_of(data), AlreadyExists)
            yield
            if store.find(key_of(data)) is None:
                try:
                    store.create(key_of(data), data)
                except AlreadyExists:
                    self.claims.claim(store, key_of(data), AlreadyExists)
            yield
        self.relies_since = self.machine.seconds()
        for data in blobs:
            self.claims.claim(store, key_of(data), AlreadyExists)
            yield
            if store.find(key_of(data)) is None:
                raise Transient("store_unavailable", "It was removed.")
            yield
        try:
            store.create(key, content_of(name))
        except AlreadyExists:
            self.claims.claim(store, key, AlreadyExists)
            yield
            if store.find(key) is None:
                raise Transient("store_unavailable", "It was removed.") from None


class GcBesideReleases(RuleBasedStateMachine):
    """Releases and two sweeps in any order of their requests; what a release has published must be whole at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGIN
        self.store = FakeSweepStore(lambda: self.now)
        self.records: set[str] = set()
        self.releases: list[Release] = []
        self.queue: list[int] = []
        self.sweeper = Sweeper(Hooked(self.store, self._between), self._names, YOUNG, lambda: self.now)
        self.sweeping = [None, None]

    @initialize(made=st.sets(st.sampled_from(sorted(OUTPUTS))), recorded=st.booleans(), planned=st.booleans())
    def earlier_releases_left_outputs(self, made, recorded, planned):
        """Most of the time there is garbage, and a plan of it whose wait is over; hypothesis chooses what."""
        self.now = BEGIN - timedelta(days=9)
        for name in made:
            for key, data in [
                *((key_of(BLOBS[n]), BLOBS[n]) for n in OUTPUTS[name][0]),
                (manifest_of(name), content_of(name)),
            ]:
                self.store.objects[key] = (data, self.now)
        self.now = BEGIN
        self.records = {name for name in made if recorded and OUTPUTS[name][1] in (*made, None)}
        if planned:
            list(self.sweeper.plan_steps(WAIT))
            self.now += WAIT

    def seconds(self) -> float:
        return (self.now - BEGIN).total_seconds()

    def _names(self) -> set[str]:
        return {name_of(manifest_of(name)) for name in self.records}

    def _between(self) -> None:
        if self.queue and self.releases:
            self.releases[self.queue.pop() % len(self.releases)].step()
            self.releases = [release for release in self.releases if not release.ended]

    @rule(name=st.sampled_from(sorted(OUTPUTS)))
    def a_release_begins(self, name):
        if len(self.releases) < 3:
            self.releases.append(Release(self, name))

    @precondition(lambda self: self.releases)
    @rule(number=st.integers(0, 2), steps=st.integers(1, 12))
    def a_release_works(self, number, steps):
        release = self.releases[number % len(self.releases)]
        for _ in range(steps):
            if not release.ended:
                release.step()
        self.releases = [release for release in self.releases if not release.ended]

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def a_release_ends(self, data):
        ended = data.draw(st.sampled_from(sorted(self.records)))
        self.records -= {ended} | {name for name, (_, parent) in OUTPUTS.items() if parent == ended}

    @rule(choices=st.lists(st.integers(0, 2), max_size=12))
    def releases_work_between_the_requests_of_a_sweep(self, choices):
        self.queue = choices

    @rule(seconds=st.sampled_from([1, 59, 61, 119, 121, 3 * 3600, 9 * 24 * 3600]))
    def time_passes(self, seconds):
        relying = [release.relies_since for release in self.releases if release.relies_since is not None]
        if all(self.seconds() + seconds - since < PLAN_READ_S for since in relying):
            self.now += timedelta(seconds=seconds)

    @rule(which=st.integers(0, 1))
    def gc_is_run(self, which):
        plan = self.sweeper.find_plan()
        if self.sweeping[which] is not None:
            return
        if plan is None:
            self.sweeping[which] = self.sweeper.plan_steps(WAIT)
        elif self.now >= plan.sweep_after:
            self.sweeping[which] = self.sweeper.sweep_steps(plan, Swept())

    @precondition(lambda self: any(self.sweeping))
    @rule(which=st.integers(0, 1), steps=st.integers(1, 8))
    def gc_works(self, which, steps):
        for _ in range(steps):
            try:
                if self.sweeping[which] is None or next(self.sweeping[which], "ended") == "ended":
                    self.sweeping[which] = None
            except AlreadyExists:  # another one has just written a plan
                self.sweeping[which] = None

    @precondition(lambda self: any(self.sweeping))
    @rule(which=st.integers(0, 1))
    def gc_is_killed(self, which):
        if self.sweeping[which] is not None:
            self.sweeping[which].close()
            self.sweeping[which] = None

    @invariant()
    def what_was_published_is_whole(self):
        for name in self.records:
            assert self.store.find(manifest_of(name)) is not None, name
            for number in OUTPUTS[name][0]:
                assert self.store.find(key_of(BLOBS[number])) is not None, (name, number)


GcBesideReleases.TestCase.settings = settings(max_examples=often(100), stateful_step_count=30, deadline=None)
TestGcBesideReleases = GcBesideReleases.TestCase

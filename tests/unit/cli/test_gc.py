"""Sweeping the store: what is held, by what, and that no release loses what it found, however the steps interleave."""

import base64
import contextlib
import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clients.cli.gc.references import is_candidate, is_document, name_of, names_in, reached
from clients.cli.gc.roots import HOLDING, SUBJECTS, has_ended
from clients.cli.gc.sweeping import Sweeper
from contracts.envelope import nats_subject
from contracts.facts import FACTS
from contracts.vocabulary import canonical_json, digest_of
from shared.storage.blobs import blob_key, manifest_key
from shared.storage.objects import AlreadyExists
from tests.kit.conformance_sweep import SweepStoreConformance
from tests.kit.fakes_gc import FakeSweepStore, Hooked
from tests.kit.soak import often

BEGIN = datetime(2026, 11, 27, tzinfo=UTC)
GRACE = timedelta(hours=2)
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


def world(names=(), age=2 * GRACE):
    """A store whose objects are old; the clock is then moved on by `later`."""
    times = [BEGIN - age]
    store = FakeSweepStore(lambda: times[0])
    return store, Sweeper(store, lambda: set(names), GRACE, lambda: times[0]), times


def test_what_versions_holds_and_young_documents_name_stays():
    store, sweeper, times = world()
    of_version, held, of_young, lost = (put(store, key_of(data), data) for data in BLOBS)
    put(store, "versions/tiny/1/manifest.json", document(digest_of(BLOBS[0])))
    put(store, "holds/audit-2026.json", b'"' + digest_of(BLOBS[1]).encode() + b'"')
    put(store, "audit/000001.jsonl", digest_of(BLOBS[3]).encode())
    times[0] = BEGIN - timedelta(minutes=1)
    put(store, "manifests/merged/" + "1" * 64 + ".json", document(digest_of(BLOBS[2])))
    assert sweeper.unreferenced() == {lost: len(BLOBS[3])}
    assert {of_version, held, of_young}.isdisjoint(sweeper.unreferenced())


def test_what_is_hidden_is_erased_after_the_grace_period_and_not_before():
    store, sweeper, times = world()
    lost, locked = put(store, key_of(BLOBS[0]), BLOBS[0]), put(store, key_of(BLOBS[1]), BLOBS[1])
    store.locked.add(locked)
    times[0] = BEGIN
    assert sweeper.sweep().hidden == {lost: len(BLOBS[0]), locked: len(BLOBS[1])}
    assert store.find(lost) is None
    times[0] += GRACE - timedelta(seconds=1)
    swept = sweeper.sweep()
    assert (swept.hidden, swept.erased, swept.shown) == ({}, {}, {})
    times[0] += timedelta(seconds=1)
    swept = sweeper.sweep()
    assert (swept.erased, swept.locked) == ({lost: len(BLOBS[0])}, [locked])
    assert set(store.objects) == {locked}


def test_what_is_used_again_while_it_is_hidden_is_shown_with_all_that_it_refers_to():
    store, sweeper, times = world(names := set())
    for name in ("merged-1", "variant-1"):
        for number in OUTPUTS[name][0]:
            if store.find(key_of(BLOBS[number])) is None:
                put(store, key_of(BLOBS[number]), BLOBS[number])
        put(store, manifest_of(name), content_of(name))
    keys = set(store.objects)
    times[0] = BEGIN
    assert set(sweeper.sweep().hidden) == keys
    names.add(name_of(manifest_of("variant-1")))
    times[0] += 2 * GRACE
    swept = sweeper.sweep()
    assert (set(swept.shown), swept.erased, swept.hidden) == (keys, {}, {})
    assert all(store.find(key) is not None for key in keys)


def test_what_is_written_anew_while_it_is_hidden_stays_and_what_was_there_is_hidden_with_it_at_its_end():
    store, sweeper, times = world()
    key = put(store, key_of(BLOBS[0]), BLOBS[0])
    times[0] = BEGIN
    sweeper.sweep()
    put(store, key, BLOBS[0])
    times[0] += GRACE / 2
    assert sweeper.sweep().erased == {}
    assert store.find(key) == BLOBS[0]
    times[0] += GRACE
    assert set(sweeper.sweep().hidden) == {key}
    times[0] += GRACE
    assert set(sweeper.sweep().erased) == {key}
    assert store.objects == {}


# -- beside releases ---------------------------------------------------------------------------------------------------


class Release:
    """A worker that makes an output, or finds it, as `shared.storage.blobs.Store` does; a step per request."""

    def __init__(self, machine: "GcBesideReleases", name: str) -> None:
        self.machine, self.name = machine, name
        self.began = machine.now
        self.steps = self._steps()
        self.ended = False

    def step(self) -> None:
        try:
            next(self.steps)
        except StopIteration:
            self.ended = True

    def _steps(self):
        _, parent = OUTPUTS[self.name]
        for name in filter(None, (parent, self.name)):
            yield from self._make(name)
            self.machine.records.add(name)

    def _make(self, name: str):
        store, key = self.machine.store, manifest_of(name)
        if store.find(key) is not None:
            yield
            return
        blobs = [BLOBS[number] for number in OUTPUTS[name][0]]
        for data in blobs:
            if store.find(key_of(data)) is None:
                yield
                self._create(key_of(data), data)
            yield
        while missing := [data for data in blobs if store.find(key_of(data)) is None]:
            self._create(key_of(missing[0]), missing[0])  # a commit requires them, and is made again
            yield
        self._create(key, content_of(name))
        yield

    def _create(self, key: str, data: bytes) -> None:
        with contextlib.suppress(AlreadyExists):
            self.machine.store.create(key, data)


class GcBesideReleases(RuleBasedStateMachine):
    """Releases and sweeps in any order of their requests: what a release has published is never erased.

    It may be hidden for a while, if the release found it just before; the next sweep shows it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGIN
        self.store = FakeSweepStore(lambda: self.now)
        self.records: set[str] = set()
        self.releases: list[Release] = []
        self.queue: list[int] = []
        self.alone = Sweeper(self.store, self._names, GRACE, lambda: self.now)

    @initialize(made=st.sets(st.sampled_from(sorted(OUTPUTS))), recorded=st.booleans(), hidden=st.booleans())
    def earlier_releases_left_outputs(self, made, recorded, hidden):
        """Most of the time there is garbage, perhaps hidden; hypothesis chooses what."""
        self.now = BEGIN - 2 * GRACE
        for name in made:
            for number in OUTPUTS[name][0]:
                if self.store.find(key_of(BLOBS[number])) is None:
                    self.store.create(key_of(BLOBS[number]), BLOBS[number])
            self.store.create(manifest_of(name), content_of(name))
        self.now = BEGIN
        self.records = {name for name in made if recorded and OUTPUTS[name][1] in (*made, None)}
        if hidden:
            self.alone.sweep()

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

    @rule(part=st.sampled_from([0.001, 0.3, 0.6, 0.999, 2.0]))
    def time_passes(self, part):
        """What a release relies on it has published within the grace period."""
        if all(self.now + part * GRACE - release.began < GRACE for release in self.releases):
            self.now += part * GRACE

    @rule(choices=st.lists(st.integers(0, 2), max_size=60), killed_after=st.none() | st.integers(0, 30))
    def gc_is_run_while_releases_work(self, choices, killed_after):
        self.queue = choices
        left = itertools.count(killed_after, -1) if killed_after is not None else None

        def request():
            if left is not None and next(left) <= 0:
                raise KeyboardInterrupt
            self._between()

        sweeper = Sweeper(Hooked(self.store, request), self._names, GRACE, lambda: self.now)
        with contextlib.suppress(KeyboardInterrupt):
            sweeper.sweep()

    @invariant()
    def what_was_published_is_there_or_hidden(self):
        for name in self.records:
            keys = [manifest_of(name), *(key_of(BLOBS[number]) for number in OUTPUTS[name][0])]
            for key in keys:
                assert any(each.data is not None for each in self.store.objects.get(key, ())), (name, key)

    @rule()
    def after_a_sweep_alone_it_is_found(self):
        self.alone.sweep()
        for name in self.records:
            assert self.store.find(manifest_of(name)) is not None, name
            for number in OUTPUTS[name][0]:
                assert self.store.find(key_of(BLOBS[number])) is not None, (name, number)


GcBesideReleases.TestCase.settings = settings(max_examples=often(100), stateful_step_count=30, deadline=None)
TestGcBesideReleases = GcBesideReleases.TestCase

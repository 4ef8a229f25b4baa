"""The registry around its domain, on fakes: what is written, what is said, and what a crash leaves behind."""

import asyncio
import contextlib
import dataclasses
from datetime import timedelta

import pytest

from contracts import facts as f
from contracts.policy import Promotion
from contracts.teams import Team
from contracts.vocabulary import ServingSettings
from services.registry.admissions import rejection
from services.registry.app import Registry
from services.registry.domain.admission import AllowedLocations
from services.registry.release_records import STUCK_GRACE_S
from services.registry.settings import RegistrySettings
from shared.errors import Permanent, Transient
from shared.storage.kv import Entry
from tests.kit import fakes_registry as k
from tests.kit.records import Faults, FaultyRecords, Killed, raising
from tests.kit.virtual_time import run_virtual

PLACES = AllowedLocations(bucket="slipway")


class Harness:
    """A registry on fakes."""

    def __init__(self):
        self.out = k.World()
        self.registry = self.started()
        self.count = 0

    def started(self):
        return Registry(self.out.ports(), locations=PLACES, settings=RegistrySettings(), clock=self.out.clock)

    def restarted(self):
        """The same world, a new process."""
        self.registry = self.started()
        return self

    async def sweep(self):
        for sweeper in self.registry.sweepers:
            await sweeper.sweep()

    async def admit(self, event_id="e1", **changes):
        checkpoint = k.ready(**changes)
        await self.registry.admit(k.event(checkpoint, event_id, model=checkpoint.model))
        return self.published(f.ReleaseOpened)

    async def handle(self, release_id, *facts):
        for fact in facts:
            self.count += 1
            await self.registry.handle(k.event(fact, f"f{self.count}", correlation=release_id), release_id)

    async def deployed(self, release_id, to, cause="promote"):
        self.count += 1
        await self.registry.handle_deployment(k.event(k.changed(to, cause), f"f{self.count}", correlation=release_id))

    async def to_registered(self, release_id, variants=("bf16", "int8")):
        await self.handle(release_id, k.merged(), *(k.quantised(variant) for variant in variants))

    async def to_end(self, release_id, version):
        await self.handle(release_id, *(k.staged(v, version) for v in ("bf16", "int8")))
        await self.handle(release_id, *(k.benchmarked(v, version) for v in ("bf16", "int8")))
        active = k.target("bf16", version)
        await self.deployed(release_id, k.route(active, epoch=version))
        self.out.routes.kept[k.MODEL] = Entry(k.route(active, epoch=version), version)

    def published(self, kind):
        return self.out.publisher.of(kind)

    async def release(self, release_id):
        entry = await self.out.releases.get(f"{k.MODEL}.{release_id}")
        return entry.value if entry else None

    async def model(self):
        return await self.registry.records.model(k.MODEL)


@pytest.fixture
def harness():
    return Harness()


async def test_a_checkpoint_opens_a_release_with_the_first_version(harness):
    (opened,) = await harness.admit()
    assert opened.version == 1
    assert opened.policy == k.policy()
    assert opened.source_event_id == "e1"
    (emit,) = harness.out.publisher.published
    assert (emit.cause_id, emit.correlation_id, emit.model) == ("e1", opened.release_id, k.MODEL)
    assert (await harness.release(opened.release_id)).outbox == ()


async def test_one_checkpoint_under_many_ids_and_again_is_one_release(harness):
    for event_id in ("e1", "e1", "e2", "e3", "e1"):
        await harness.admit(event_id)
    assert len(harness.published(f.ReleaseOpened)) == 1
    assert (await harness.model()).next_version == 2


async def test_a_higher_attempt_is_another_release_of_the_next_version(harness):
    await harness.admit()
    assert [opened.version for opened in await harness.admit("e2", attempt=2)] == [1, 2]
    first, second = (fact.release_id for fact in harness.published(f.ReleaseOpened))
    assert (first[:-2], second[:-2]) == (second[:-2], first[:-2])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"policy": k.policy(triggers=k.AUTOMATIC)}, "policy_invalid"),
        ({"policy": None}, "policy_missing"),
        ({"serving": ServingSettings(tool_parser="unheard-of")}, "serving_invalid"),
        ({"base": k.ready().base.model_copy(update={"name": "unheard-of"})}, "unknown_base"),
        ({"base": k.ready().base.model_copy(update={"name": "../../x"})}, "unknown_base"),
        ({"calibration": k.ref("elsewhere/x")}, "uri_not_allowed"),
        ({"calibration": k.ref("checkpoints/support-bot/nothing-here")}, "artifact_not_found"),
    ],
)
async def test_what_may_not_come_in_is_refused_with_its_code(harness, changes, code):
    with pytest.raises(Permanent) as caught:
        await harness.admit(**changes)
    assert caught.value.code == code
    assert harness.out.publisher.published == []
    assert (await harness.model()).next_version == 1
    assert len(await harness.admit("e2")) == 1


async def test_weights_that_are_not_what_was_announced_are_refused(harness):
    uri = k.ready().weights.ref.uri
    harness.out.artifacts.present[uri] = b"something else"
    with pytest.raises(Permanent) as caught:
        await harness.admit()
    assert caught.value.code == "digest_mismatch"


async def test_the_stored_policy_is_used_and_may_only_be_tightened(harness):
    harness.out.policies.kept[k.MODEL] = Entry(k.policy(promotion=Promotion(mode="manual")), 1)
    with pytest.raises(Permanent) as caught:
        await harness.admit()
    assert caught.value.code == "policy_weaker_than_stored"
    (opened,) = await harness.admit(policy=None)
    assert opened.policy.promotion.mode == "manual"


async def test_a_stored_policy_that_waives_the_rehearsal_of_automatic_triggers_lets_nothing_in(harness):
    harness.out.policies.kept[k.MODEL] = Entry(k.policy(triggers=k.AUTOMATIC), 1)
    with pytest.raises(Permanent) as caught:
        await harness.admit(policy=None)
    assert caught.value.code == "policy_invalid"


async def test_a_crash_after_the_reservation_keeps_the_number(harness):
    """The model's record was written, the release's was not: neither redelivery nor the sweeper takes another."""
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)

    for heal in (lambda: harness.admit("e1"), harness.sweep, lambda: harness.admit("e9", attempt=3)):
        del harness.out.bucket.data[f"{k.MODEL}.{opened.release_id}"]
        harness.restarted()
        await heal()
        assert (await harness.release(opened.release_id)).version == 1
    assert (await harness.model()).next_version == 3


async def test_a_redelivered_event_stays_its_release_although_the_stored_policy_changed(harness):
    harness.out.policies.kept[k.MODEL] = Entry(k.policy(), 1)
    await harness.admit("e1", policy=None)
    harness.out.policies.kept[k.MODEL] = Entry(k.policy(objective="cost"), 2)
    await harness.admit("e1", policy=None)
    assert (await harness.model()).next_version == 2


async def test_a_crash_after_the_write_publishes_the_same_again(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    harness.out.publisher.failing = Transient("bus_unavailable", "away")
    with pytest.raises(Transient):
        await harness.handle(opened.release_id, k.merged())
    assert len((await harness.release(opened.release_id)).outbox) == 2
    harness.out.publisher.failing = None
    await harness.restarted().sweep()
    asked = [emit for emit in harness.out.publisher.published if isinstance(emit.fact, f.VariantRequested)]
    assert [emit.cause_id for emit in asked] == ["f1", "f1"]
    assert (await harness.release(opened.release_id)).outbox == ()


async def test_redelivery_publishes_what_the_outbox_still_holds(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    harness.out.publisher.failing = Transient("bus_unavailable", "away")
    merged = k.event(k.merged(), "m1", correlation=opened.release_id)
    with pytest.raises(Transient):
        await harness.registry.handle(merged, opened.release_id)
    harness.out.publisher.failing = None
    await harness.registry.handle(merged, opened.release_id)
    assert len(harness.published(f.VariantRequested)) == 2
    await harness.registry.handle(merged, opened.release_id)
    assert len(harness.published(f.VariantRequested)) == 2


async def test_a_crash_after_the_publish_says_nothing_twice_however_late_the_restart(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    faults, store = Faults(), harness.registry.records._ports.releases
    store._records = FaultyRecords(store._records, faults)
    faults.at["write 2 before"] = raising(Killed())  # it is published and not cleared
    with pytest.raises(Killed):
        await harness.handle(opened.release_id, k.merged())
    harness.out.publisher.forget()
    await harness.restarted().sweep()
    assert len(harness.published(f.VariantRequested)) == 2
    assert (await harness.release(opened.release_id)).outbox == ()


async def test_a_conflicting_write_is_decided_again(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    harness.out.releases.conflicts = 3
    await harness.handle(opened.release_id, k.merged())
    assert len(harness.published(f.VariantRequested)) == 2


async def test_a_record_that_never_stops_changing_is_tried_again_later(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    harness.out.releases.conflicts = 10_000
    with pytest.raises(Transient):
        await harness.handle(opened.release_id, k.merged())


async def test_facts_at_the_same_moment_are_all_applied(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    facts = (k.merged(), k.quantised("bf16"), k.quantised("int8"))
    await asyncio.gather(*(harness.handle(opened.release_id, fact) for fact in facts))
    assert len(harness.published(f.VersionRegistered)) == 1


async def test_the_manifest_is_written_before_the_version_is_said_to_exist(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    await harness.to_registered(opened.release_id)
    (registered,) = harness.published(f.VersionRegistered)
    assert list(harness.out.artifacts.versions) == ["versions/support-bot/1/manifest.json"]
    assert registered.manifest.uri.endswith("versions/support-bot/1/manifest.json")
    assert {asked.baseline.target.version for asked in harness.published(f.StageRequested)} == {0}


async def test_the_lifecycle_to_production_and_the_next_release_against_it(harness):
    await harness.admit("e1")
    await harness.admit("e2", attempt=2)
    first, second = (fact.release_id for fact in harness.published(f.ReleaseOpened))
    await harness.to_registered(second)
    await harness.to_registered(first)
    assert {asked.release_id for asked in harness.published(f.StageRequested)} == {second}
    await harness.to_end(second, 2)
    assert [(fact.release_id, fact.outcome) for fact in harness.published(f.ReleaseFinished)] == [(second, "promoted")]
    asked = [fact for fact in harness.published(f.StageRequested) if fact.release_id == first]
    assert len(asked) == 2
    record = await harness.model()
    assert (record.in_progress, record.open) == (first, (first,))


async def test_a_suspect_record_is_measured_again_through_a_restart_and_asked_for_once(harness):
    (opened,) = await harness.admit(variants=("int8",))
    first = [k.merged(), k.quantised("int8"), k.staged("int8"), k.suspect("int8")]
    await harness.handle(opened.release_id, *first)
    await harness.restarted().handle(opened.release_id, *first[2:], k.quantised("int8", number=2))
    requests = harness.published(f.VariantRequested)
    assert [request.measurement_number for request in requests] == [1, 2]
    assert requests[1].existing_manifest == k.quantised("int8").manifest
    assert [fact.measurement_number for fact in harness.published(f.StageRequested)] == [1, 2]
    (manifest,) = harness.out.artifacts.versions.values()
    assert [variant.manifest for variant in manifest.variants] == [k.quantised("int8").manifest]
    await harness.handle(opened.release_id, k.staged("int8", number=2), k.benchmarked("int8", number=2))
    (order,) = harness.published(f.TrafficRequested)
    assert order.target.measurement_manifest == k.quantised("int8", number=2).manifest


async def test_the_place_is_handed_over_even_if_the_process_died_before_doing_so(harness):
    await harness.admit("e1")
    await harness.admit("e2", attempt=2)
    first, second = (fact.release_id for fact in harness.published(f.ReleaseOpened))
    await harness.to_registered(first)
    await harness.to_registered(second)
    before = await harness.out.models.get(f"{k.MODEL}.model")
    await harness.handle(first, k.cancel(first))
    # the model's record as it was when the process died between the release's end and the hand-over
    current = await harness.out.models.get(f"{k.MODEL}.model")
    await harness.out.models.update(f"{k.MODEL}.model", before.value, current.revision)
    await harness.restarted().sweep()
    record = await harness.model()
    assert (record.in_progress, record.open) == (second, (second,))
    assert len(harness.published(f.ReleaseFinished)) == 1


async def test_a_newer_release_supersedes_where_the_older_ones_policy_says_so(harness):
    policy = k.policy(on_newer="supersede")
    await harness.admit("e1", policy=policy)
    await harness.admit("e2", policy=policy, attempt=2)
    first, second = (fact.release_id for fact in harness.published(f.ReleaseOpened))
    await harness.to_registered(first)
    await harness.to_registered(second)
    (finished,) = harness.published(f.ReleaseFinished)
    assert (finished.release_id, finished.outcome) == (first, "superseded")
    assert (await harness.model()).in_progress == second
    assert {fact.release_id for fact in harness.published(f.StageReleased)} == {first}


async def test_the_sweeper_ends_what_waits_too_long(harness):
    await harness.admit()
    await harness.sweep()
    assert harness.published(f.ReleaseFinished) == []
    harness.out.clock.advance(k.policy().deadlines.merge_s)
    await harness.sweep()
    (finished,) = harness.published(f.ReleaseFinished)
    assert (finished.outcome, finished.code) == ("expired", "deadline_passed")
    assert harness.out.publisher.types() == ["release.opened", "deadline.passed", "release.finished"]
    assert (await harness.model()).open == ()


async def test_the_sweeper_goes_on_without_what_was_not_made_in_time(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    await harness.handle(opened.release_id, k.merged(), k.quantised("int8"))
    harness.out.clock.advance(k.policy().deadlines.quantise_s)
    await harness.sweep()
    assert harness.out.publisher.types()[-4:] == [
        "deadline.passed",
        "variant.failed",
        "version.registered",
        "stage.requested",
    ]
    (failed,) = harness.published(f.VariantFailed)
    assert (failed.variant, failed.code) == ("bf16", "deadline_passed")
    assert [variant.variant for variant in harness.published(f.VersionRegistered)[0].variants] == ["int8"]
    published = len(harness.out.publisher.published)
    await harness.handle(opened.release_id, failed, k.quantised("bf16"))
    await harness.restarted().sweep()
    assert len(harness.out.publisher.published) == published


async def test_a_version_whose_facts_came_late_is_registered_after_a_crash_and_does_not_expire(harness):
    """The last variant was quantised long ago, and the registry died before it wrote the manifest."""
    (opened,) = await harness.admit()
    harness.out.clock.advance(10 * k.policy().deadlines.stage_s)
    harness.out.artifacts.failing = Transient("store_unavailable", "away")
    with pytest.raises(Transient):
        await harness.to_registered(opened.release_id)
    harness.out.artifacts.failing = None
    await harness.restarted().sweep()
    assert harness.published(f.ReleaseFinished) == []
    assert len(harness.published(f.VersionRegistered)) == 1


async def test_a_model_that_cannot_be_swept_does_not_stop_the_others(harness):
    await harness.admit()
    weights = k.ready().weights.model_copy(update={"ref": k.ref("checkpoints/a-bot/x")})
    harness.out.artifacts.present[weights.ref.uri] = b"checkpoints/a-bot/x"
    await harness.admit("e2", model="a-bot", weights=weights)
    harness.out.clock.advance(k.policy().deadlines.merge_s)
    harness.out.publisher.failing, harness.out.publisher.failing_model = Transient("bus_unavailable", "away"), "a-bot"
    await harness.sweep()
    assert [fact.model for fact in harness.published(f.ReleaseFinished)] == [k.MODEL]
    harness.out.publisher.failing = None
    await harness.sweep()
    assert [fact.model for fact in harness.published(f.ReleaseFinished)] == [k.MODEL, "a-bot"]


async def test_a_release_that_cannot_be_swept_does_not_stop_the_next_of_its_model(harness):
    await harness.admit("e1")
    await harness.admit("e2", attempt=2)
    first, second = (fact.release_id for fact in harness.published(f.ReleaseOpened))
    harness.out.clock.advance(k.policy().deadlines.merge_s)
    harness.out.bucket.data[f"{k.MODEL}.{first}"] = (99, b"not a record at all")
    await harness.sweep()
    assert [fact.release_id for fact in harness.published(f.ReleaseFinished)] == [second]


async def test_deployments_are_recorded_once_per_epoch_and_never_overwritten(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    await harness.deployed(opened.release_id, k.route(k.target("int8"), epoch=1))
    kept = dict(harness.out.artifacts.deployments)
    await harness.deployed(opened.release_id, k.route(k.target("int8"), epoch=1), "restore")
    assert harness.out.artifacts.deployments == kept
    assert list(kept) == ["versions/support-bot/1/deployments/1.json"]


async def test_the_in_progress_hears_of_a_rollback_that_was_not_its_own(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    await harness.to_registered(opened.release_id)
    quarantined = k.route(k.target("int8", 9), epoch=3, quarantined=(k.target("int8", 1),))
    await harness.deployed("an-order-of-ops", quarantined, "rollback")
    (finished,) = harness.published(f.ReleaseFinished)
    assert (finished.outcome, finished.code) == ("aborted", "quarantined")


async def test_a_promoted_release_stays_promoted_when_it_is_rolled_back_later(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    await harness.to_registered(opened.release_id)
    await harness.to_end(opened.release_id, 1)
    before = await harness.release(opened.release_id)
    quarantined = k.route(k.target("bf16", 0), epoch=2, quarantined=(k.target("bf16", 1),))
    await harness.deployed(opened.release_id, quarantined, "rollback")
    assert await harness.release(opened.release_id) == before
    assert [fact.outcome for fact in harness.published(f.ReleaseFinished)] == ["promoted"]


async def test_facts_about_no_release_are_left_alone(harness):
    await harness.handle("run 1", k.merged())
    await harness.handle(k.RELEASE, k.merged())
    assert harness.out.publisher.published == []


async def test_a_base_that_vanished_ends_its_release_and_the_next_one_runs(harness):
    await harness.admit("e1")
    await harness.admit("e2", attempt=2)
    first, second = (fact.release_id for fact in harness.published(f.ReleaseOpened))
    bases = dict(harness.out.artifacts.bases)
    harness.out.artifacts.bases.clear()
    await harness.to_registered(first)
    (finished,) = harness.published(f.ReleaseFinished)
    assert (finished.release_id, finished.outcome, finished.code) == (first, "rejected", "unknown_base")
    assert "not in the store" in finished.reason
    harness.out.artifacts.bases.update(bases)
    await harness.to_registered(second)
    assert {asked.release_id for asked in harness.published(f.StageRequested)} == {second}
    record = await harness.model()
    assert (record.in_progress, record.open) == (second, (second,))


async def test_a_queued_release_whose_base_vanished_fails_no_message_about_the_one_before_it(harness):
    for attempt in (1, 2, 3):
        await harness.admit(f"e{attempt}", attempt=attempt)
    releases = [fact.release_id for fact in harness.published(f.ReleaseOpened)]
    for release_id in releases:
        await harness.to_registered(release_id)
    harness.out.artifacts.bases.clear()
    await harness.handle(releases[0], k.cancel(releases[0]))
    ended = {fact.release_id: fact.code for fact in harness.published(f.ReleaseFinished)}
    assert ended == dict(zip(releases, ("cancelled", "unknown_base", "unknown_base"), strict=True))
    assert (await harness.model()).open == ()


async def test_a_queued_release_that_cannot_start_now_is_left_to_the_sweeper(harness):
    await harness.admit("e1")
    await harness.admit("e2", attempt=2)
    first, second = (fact.release_id for fact in harness.published(f.ReleaseOpened))
    await harness.to_registered(first)
    await harness.to_registered(second)
    damaged = harness.out.bucket.data[f"{k.MODEL}.{second}"]
    harness.out.bucket.data[f"{k.MODEL}.{second}"] = (99, b"not a record at all")
    await harness.handle(first, k.cancel(first))
    assert (await harness.model()).in_progress == second
    harness.out.bucket.data[f"{k.MODEL}.{second}"] = damaged
    await harness.sweep()
    assert second in {asked.release_id for asked in harness.published(f.StageRequested)}


@pytest.mark.parametrize("error", [Transient("store_unavailable", "away"), ZeroDivisionError("a defect"), None])
def test_a_step_of_the_registry_that_never_succeeds_ends_with_its_deadline_and_a_grace(error):
    """None: it never answers."""

    async def play():
        harness = Harness()
        await harness.admit("e1")
        (opened,) = harness.published(f.ReleaseOpened)
        await harness.handle(opened.release_id, k.merged(), k.quantised("bf16"))
        harness.out.artifacts.silent = error is None
        harness.out.artifacts.failing = error
        with contextlib.suppress(Transient, ZeroDivisionError, TimeoutError):
            async with asyncio.timeout(1.0):
                await harness.handle(opened.release_id, k.quantised("int8"))
        harness.out.clock.advance(100 * k.policy().deadlines.stage_s)
        await harness.sweep()
        assert harness.published(f.ReleaseFinished) == [], "it was not tried for long"
        harness.out.clock.advance(STUCK_GRACE_S)
        await harness.sweep()
        (finished,) = harness.published(f.ReleaseFinished)
        assert (finished.outcome, finished.code) == ("expired", "deadline_passed")
        assert (await harness.model()).open == ()

    run_virtual(play())


async def test_while_the_bus_is_away_no_deadline_ends_a_release(harness):
    (opened,) = await harness.admit()
    harness.out.publisher.failing = Transient("stream_full", "full")
    with pytest.raises(Transient):
        await harness.handle(opened.release_id, k.merged())
    for _ in range(3):
        harness.out.clock.advance(100 * STUCK_GRACE_S)
        await harness.sweep()
    assert (await harness.release(opened.release_id)).expired is None


async def test_an_order_whose_answer_cannot_be_published_is_carried_out_once_and_the_next_release_runs(harness):
    await harness.admit("e1")
    await harness.admit("e2", attempt=2)
    first, second = (fact.release_id for fact in harness.published(f.ReleaseOpened))
    await harness.to_registered(first)
    await harness.to_registered(second)
    harness.out.publisher.failing = Permanent("too_large", "Too large for its stream.")
    await harness.handle(first, k.cancel(first))
    assert (await harness.release(first)).finished is not None
    record = await harness.model()
    assert (record.in_progress, record.open) == (second, (first, second)), "the first is still swept"
    harness.out.publisher.failing = None
    await harness.restarted().sweep()
    assert [fact.release_id for fact in harness.published(f.ReleaseFinished)] == [first]
    assert second in {asked.release_id for asked in harness.published(f.StageRequested)}
    assert (await harness.model()).open == (second,)


async def test_a_sweep_that_could_not_read_a_models_record_counts_as_failed(harness):
    await harness.admit()
    _, releases = harness.registry.sweepers
    assert await releases.sweep() == 0
    harness.out.bucket.data[f"{k.MODEL}.model"] = (99, b"not a record at all")
    assert await releases.sweep() == 1
    harness.out.bucket.lost = True
    assert await releases.sweep() == 1


def test_a_refusal_becomes_a_rejection_that_says_what_to_do():
    error = Permanent("policy_missing", "No policy.", looked_in="event")
    fact = rejection(error)
    assert (fact.code, fact.details) == ("policy_missing", {"looked_in": "event"})
    assert "rollback trigger" in fact.reason


async def test_an_approval_is_attested_with_its_sender_before_it_counts_and_waits_for_the_version(harness):
    (opened,) = await harness.admit(policy=k.policy(promotion=Promotion(mode="manual")))
    await harness.handle(opened.release_id, k.merged(), k.quantised("bf16"))
    digest = k.quantised("bf16").manifest.digest
    order = k.event(k.approval(digest, opened.release_id), "o-1", source="/slipway/ana")
    with pytest.raises(Transient, match="not registered yet"):
        await harness.registry.handle_order(order, order.time)
    assert harness.out.artifacts.approvals == {}
    await harness.handle(opened.release_id, k.quantised("int8"))
    attested = await harness.registry.handle_order(order, order.time)
    assert (attested.order_id, attested.release_id) == ("o-1", opened.release_id)
    record = harness.out.artifacts.approvals["o-1"]
    assert (record.approved_by, record.manifest_digest) == ("ana", digest)
    other = k.event(k.approval("sha256:" + "0" * 64, opened.release_id), "o-2", source="/slipway/ana")
    await harness.registry.handle_order(other, other.time)
    assert set(harness.out.artifacts.approvals) == {"o-1"}, "it approves no variant of this release"


async def test_an_approval_that_arrives_before_its_variant_is_quantised_waits_and_is_attested(harness):
    (opened,) = await harness.admit(policy=k.policy(promotion=Promotion(mode="manual")))
    order = k.event(k.approval(k.quantised("bf16").manifest.digest, opened.release_id), "o-1", source="/slipway/ana")
    for arrived in ((), (k.merged(),), (k.quantised("int8"),)):
        await harness.handle(opened.release_id, *arrived)
        with pytest.raises(Transient, match="not registered yet"):
            await harness.registry.handle_order(order, order.time)
    await harness.handle(opened.release_id, k.quantised("bf16"))
    assert (await harness.registry.handle_order(order, order.time)).order_id == "o-1"
    assert set(harness.out.artifacts.approvals) == {"o-1"}


async def test_an_order_for_a_release_that_ended_is_not_answered_as_accepted(harness):
    (opened,) = await harness.admit()
    cancelled = k.event(k.cancel(opened.release_id), "o-1", source="/slipway/ana")
    assert (await harness.registry.handle_order(cancelled, cancelled.time)).order_id == "o-1"
    late = k.event(k.cancel(opened.release_id), "o-2", source="/slipway/ana")
    assert await harness.registry.handle_order(late, late.time) is None


def held(release_id, order_id, *, paused, sender="oscar"):
    fact = f.ReleaseHeld(release_id=release_id, paused=paused, reason=order_id)
    return k.event(fact, order_id, source=f"/slipway/{sender}")


@pytest.mark.parametrize("first", ["resume", "pause"])
async def test_a_resume_that_is_handled_before_its_pause_ends_it_all_the_same(harness, first):
    """The bus stored the pause first; delivered again after a failure, it comes after the resume."""
    (opened,) = await harness.admit()
    pause, resume = (held(opened.release_id, name, paused=name == "pause") for name in ("pause", "resume"))
    stored = {"pause": pause.time, "resume": pause.time + timedelta(seconds=1)}
    for order in (resume, pause) if first == "resume" else (pause, resume):
        await harness.registry.handle_order(order, stored[order.id])
    release = await harness.release(opened.release_id)
    assert (release.is_paused, release.hold.event_id) == (False, "resume")


async def test_a_second_pause_is_accepted_and_counts_as_the_newest(harness):
    (opened,) = await harness.admit()
    for number, sender in enumerate(("oscar", "olga")):
        order = held(opened.release_id, f"h{number}", paused=True, sender=sender)
        stored = order.time + timedelta(seconds=number)
        accepted = await harness.registry.handle_order(order, stored)
        details = {"paused": True, "by": sender, "at": stored.isoformat(), "reason": f"h{number}"}
        assert accepted.details == details
        assert (await harness.registry.handle_order(order, stored)).details == details, "delivered again"
    assert (await harness.release(opened.release_id)).hold.sender == "olga"


async def test_an_order_with_an_id_that_was_applied_is_answered_by_what_the_record_has(harness):
    """Who publishes chooses the id: the answer shows readers of the log whether a release is paused."""
    (opened,) = await harness.admit()
    pause, resume = held(opened.release_id, "h1", paused=True), held(opened.release_id, "h2", paused=False)
    later = resume.time + timedelta(seconds=1)
    await harness.registry.handle_order(pause, pause.time)
    forged = held(opened.release_id, "h1", paused=False)
    with pytest.raises(Permanent, match="id h1 is that of another event"):
        await harness.registry.handle_order(forged, later)
    await harness.registry.handle_order(resume, later)
    for reused in (pause, held(opened.release_id, "h1", paused=True, sender="olga")):
        assert (await harness.registry.handle_order(reused, pause.time)).details == {}, "a newer one counts"
    assert (await harness.release(opened.release_id)).is_paused is False


async def test_an_order_of_another_team_is_refused_although_its_id_was_applied(harness):
    (opened,) = await harness.admit()
    pause = held(opened.release_id, "h1", paused=True)
    await harness.registry.handle_order(pause, pause.time)
    harness.out.teams = (Team(name="shop", models=(k.MODEL,), members=("oscar",)),)
    assert (await harness.registry.handle_order(pause, pause.time)).details["by"] == "oscar"
    foreign = held(opened.release_id, "h1", paused=False, sender="mallory")
    with pytest.raises(Permanent) as refused:
        await harness.registry.handle_order(foreign, pause.time)
    assert refused.value.code == "team_mismatch"


async def test_text_is_erased_by_an_order_that_is_answered_with_what_was_erased(harness):
    (opened,) = await harness.admit()
    await harness.to_registered(opened.release_id)
    order = k.event(f.ErasureOrdered(reason="asked for", version=opened.version), "o-1", source="/slipway/ana")
    accepted = await harness.registry.erase(order, order.time)
    assert harness.out.artifacts.erased == [(k.MODEL, opened.version, "held-out")]
    assert len(accepted.details["digests"]) == 1
    void = k.event(f.ErasureOrdered(reason="asked for", version=99), "o-2", source="/slipway/ana")
    with pytest.raises(Permanent, match="has no version 99"):
        await harness.registry.erase(void, void.time)


async def test_what_is_done_before_traffic_is_done_before_the_order_is_published_also_after_a_crash(harness):
    """The order is written first: killed while it is done, the next process does it again and publishes."""
    done = []

    async def lock(order):
        assert harness.published(f.TrafficRequested) == []
        done.append(str(order.target.target))
        if len(done) == 1:
            raise Killed("while the version was locked")

    ports = dataclasses.replace(harness.out.ports(), before_traffic=lock)
    settings = RegistrySettings()
    harness.registry = Registry(ports, locations=PLACES, settings=settings, clock=harness.out.clock)
    (opened,) = await harness.admit()
    await harness.to_registered(opened.release_id)
    await harness.handle(opened.release_id, *(k.staged(v, 1) for v in ("bf16", "int8")))
    with pytest.raises(Killed):
        await harness.handle(opened.release_id, *(k.benchmarked(v, 1) for v in ("bf16", "int8")))
    assert harness.published(f.TrafficRequested) == []
    harness.registry = Registry(ports, locations=PLACES, settings=settings, clock=harness.out.clock)
    await harness.sweep()
    (order,) = harness.published(f.TrafficRequested)
    assert done == [str(order.target.target)] * 2
    await harness.sweep()
    assert len(done) == 2

"""Releases from admission to their end, on fakes: restarts, deadlines, sweeps, and what cannot be read now."""

import asyncio
import contextlib

import pytest

from contracts import facts as f
from contracts.evaluations import Evaluations
from contracts.policy import Deadlines
from contracts.vocabulary import digest_of
from services.registry.admissions import rejection
from services.registry.release_records import STUCK_GRACE_S
from shared.errors import Permanent, Transient
from shared.messaging.delivery import OBJECT_LIMIT_S, OBJECT_TRIES
from tests.kit import fakes_registry as k
from tests.kit.virtual_time import run_virtual
from tests.unit.registry.harness import Harness, harness

__all__ = ["harness"]  # a fixture


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


async def test_a_release_whose_deadline_is_beyond_the_calendar_is_swept(harness):
    """It was admitted before admission refused such a policy."""
    (opened,) = await harness.admit()
    key, releases = f"{k.MODEL}.{opened.release_id}", harness.out.releases
    entry = await releases.get(key)
    policy = entry.value.policy.model_copy(update={"deadlines": Deadlines(merge_s=1e300)})
    before = entry.value.opened.model_copy(update={"policy": policy})
    await releases.update(key, entry.value.model_copy(update={"opened": before}), entry.revision)
    assert not any([await sweeper.sweep() for sweeper in harness.registry.sweepers])
    await harness.to_registered(opened.release_id)
    assert harness.published(f.VersionRegistered)


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
    types = [name for name in harness.out.publisher.types() if name != "release.progressed"]
    assert types == ["release.opened", "deadline.passed", "release.finished"]
    assert (await harness.model()).open == ()


async def test_the_sweeper_goes_on_without_what_was_not_made_in_time(harness):
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)
    await harness.handle(opened.release_id, k.merged(), k.quantised("int8"))
    harness.out.clock.advance(k.policy().deadlines.quantise_s)
    await harness.sweep()
    types = [name for name in harness.out.publisher.types() if name != "release.progressed"]
    assert types[-4:] == [
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


async def test_a_step_of_the_registry_that_needs_an_object_that_is_unreadable_for_long_ends_the_release(harness):
    (opened,) = await harness.admit()
    harness.out.artifacts.failing = failure = Transient("object_unreadable", "The store does not read blobs/a.")
    with pytest.raises(Transient):
        await harness.to_registered(opened.release_id)
    failure.details.update(tries=OBJECT_TRIES * 2, failing_s=OBJECT_LIMIT_S - 1)
    await harness.sweep()
    assert harness.published(f.ReleaseFinished) == []
    failure.details.update(failing_s=OBJECT_LIMIT_S)
    await harness.sweep()
    (finished,) = harness.published(f.ReleaseFinished)
    assert (finished.outcome, finished.code) == ("rejected", "object_unreadable")
    assert "blobs/a" in finished.reason
    (raised,) = harness.published(f.AlertRaised)
    assert (raised.kind, raised.target.version) == ("store", opened.version)


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
    _, releases, *_ = harness.registry.sweepers
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


async def test_a_publishers_figure_is_compared_with_that_of_the_active_version(harness):
    bound = {"name": "routing", "metric": "accuracy", "max_drop": 0.02}
    policy = k.policy(evaluations=Evaluations.model_validate({"stated": [bound]}))

    async def admit(attempt, value):
        evals = (f.EvalResult(name="routing", metric="accuracy", value=value),)
        return await harness.admit(f"e{attempt}", policy=policy, attempt=attempt, evals=evals)

    (first,) = await admit(1, 0.9)
    await harness.to_registered(first.release_id)
    await harness.to_end(first.release_id, first.version)
    with pytest.raises(Permanent, match="of the active version"):
        await admit(2, 0.87)
    assert len(await admit(3, 0.89)) == 2
    del harness.out.bucket.data[f"{k.MODEL}.{first.release_id}"]
    with pytest.raises(Permanent, match=r"is 0\.87, and 0\.9 of the active version"):
        await admit(2, 0.87)
    harness.out.artifacts.versions.clear()
    with pytest.raises(Permanent, match="no signed manifest"):
        await admit(4, 0.89)


def anchored(harness):
    """Return what promotes versions with one evaluation, and the basis of its scores."""
    own = {"name": "own", "rows": "default"}
    policy, basis = k.policy(evaluations=Evaluations.model_validate({"sets": [own]})), digest_of(b"rows")

    async def release(version, beside=None):
        *_, opened = await harness.admit(f"e{version}", policy=policy, attempt=version, variants=("bf16",))
        await harness.to_registered(opened.release_id, variants=("bf16",))
        await harness.handle(opened.release_id, k.staged("bf16", version), k.benchmarked("bf16", version))
        evaluated = k.evaluated("bf16", version, names=("own",), basis=basis, anchor=beside)
        await harness.handle(opened.release_id, evaluated)
        await harness.deployed(opened.release_id, k.route(k.target("bf16", version), epoch=version))
        return evaluated, harness.published(f.StageRequested)[-1]

    return release, basis


async def test_the_first_promoted_version_is_the_anchor_of_the_next_release(harness):
    release, basis = anchored(harness)
    first, asked = await release(1)
    assert (asked.purpose, asked.anchors) == ("evaluation", ())
    (end,) = harness.published(f.ReleaseFinished)
    assert end.outcome == "promoted"
    _, asked = await release(2, first.target)
    (anchor,) = asked.anchors
    assert (anchor.basis, anchor.target, anchor.report) == (basis, first.target, first.report)
    del harness.out.bucket.data[f"{k.MODEL}.model"]
    harness.restarted()
    assert (await harness.model()).anchors == (anchor,), "the releases know it, too"


async def test_a_finished_release_that_is_handed_in_again_is_no_new_anchor(harness):
    release, _ = anchored(harness)
    await release(1)
    (opened,) = harness.published(f.ReleaseOpened)
    later, _ = await release(2)
    assert [anchor.target for anchor in (await harness.model()).anchors] == [later.target]
    await harness.handle(opened.release_id, k.staged("bf16", 1))
    assert [anchor.target for anchor in (await harness.model()).anchors] == [later.target]

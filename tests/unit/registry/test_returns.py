"""A suspended version that returns: a release of its own, of the same version, that begins with its canary."""

import pytest

from contracts import facts as f
from contracts.policy import Canary
from contracts.routes import Suspended
from services.registry.domain.deadlines import awaited_step
from shared.storage.kv import Entry
from tests.kit import fakes_registry as k
from tests.unit.registry.harness import Harness

OLD, NEW = k.target("bf16", 1), k.target("int8", 2)
ENTRY = Suspended(served=k.served(NEW), cause="2 of 9 failed", since=k.START, trigger="errors", verdict="cleared")


def left(returned_by="verdict", epoch=3, canary=None):
    suspended = (ENTRY.model_copy(update={"returned_by": returned_by}),) if canary is None else ()
    return k.route(OLD, canary, epoch=epoch).model_copy(update={"suspended": suspended})


@pytest.fixture
async def harness():
    """Version 2 was promoted after version 1, and is suspended."""
    harness = Harness()
    for version in (1, 2):
        *_, opened = await harness.admit(f"e{version}", attempt=version, policy=k.policy(canary=Canary(steps=(0.1,))))
        await harness.to_registered(opened.release_id)
        await harness.to_end(opened.release_id, version)
        if version == 2:
            await harness.deployed(opened.release_id, k.route(OLD, NEW, epoch=2), "canary")
            await harness.handle(opened.release_id, k.assessed("int8").model_copy(update={"target": NEW}))
            await harness.deployed(opened.release_id, k.route(NEW, epoch=2))
    assert [end.outcome for end in harness.published(f.ReleaseFinished)] == ["promoted", "promoted"]
    return harness


async def tell(harness, route, cause="judge", correlation="run 1"):
    harness.out.routes.kept[k.MODEL] = Entry(route, route.epoch)
    await harness.deployed(correlation, route, cause)


async def returned(harness):
    await tell(harness, left())
    *_, opened = harness.published(f.ReleaseOpened)
    return opened


async def test_it_is_a_release_of_the_same_version_and_nothing_is_made_or_measured_again(harness):
    before = len(harness.published(f.VariantRequested)), len(harness.published(f.StageRequested))
    opened = await returned(harness)
    assert (opened.version, opened.returns.target, opened.source_event_id) == (2, NEW, "verdict")
    *_, order = harness.published(f.TrafficRequested)
    assert (order.release_id, order.target.target, order.weight_ratio, order.epoch) == (opened.release_id, NEW, 0.1, 3)
    assert (len(harness.published(f.VariantRequested)), len(harness.published(f.StageRequested))) == before
    await tell(harness.restarted(), left(), correlation=opened.release_id)
    assert len(harness.published(f.ReleaseOpened)) == 3, "once"


async def test_after_its_canary_it_is_promoted(harness):
    opened = await returned(harness)
    await tell(harness, left(epoch=4, canary=NEW), "canary", opened.release_id)
    assert awaited_step(await harness.release(opened.release_id)) == "canary"
    await harness.handle(opened.release_id, k.assessed("int8").model_copy(update={"target": NEW}))
    await tell(harness, k.route(NEW, epoch=5), "promote", opened.release_id)
    *_, end = harness.published(f.ReleaseFinished)
    assert (end.release_id, end.outcome, end.target) == (opened.release_id, "promoted", NEW)
    assert end.returned_by == "verdict"
    assert (await harness.model()).open == ()


async def test_a_second_move_ends_it_and_a_person_decides(harness):
    opened = await returned(harness)
    await tell(harness, left(epoch=4, canary=NEW), "canary", opened.release_id)
    await tell(harness, left("", epoch=5), "abort", "rb-1")
    *_, end = harness.published(f.ReleaseFinished)
    assert (end.release_id, end.outcome) == (opened.release_id, "aborted")
    assert end.reason == f"{NEW} was left again, and a person decides about it."
    await tell(harness, left("order", epoch=6))
    assert len(harness.published(f.ReleaseOpened)) == 4, "a person lets it return again"


async def test_a_candidate_under_way_goes_first(harness):
    await harness.admit("e3", attempt=3)
    candidate = harness.published(f.ReleaseOpened)[-1].release_id
    await harness.to_registered(candidate)
    opened = await returned(harness)
    record = await harness.model()
    assert (record.in_progress, record.queue) == (candidate, (opened.release_id,))
    await harness.handle(candidate, k.cancel(candidate))
    assert (await harness.model()).in_progress == opened.release_id
    assert harness.published(f.TrafficRequested)[-1].release_id == opened.release_id


async def test_one_that_waits_is_promoted_by_the_return_at_once_of_its_version(harness):
    await harness.admit("e3", attempt=3)
    candidate = harness.published(f.ReleaseOpened)[-1].release_id
    await harness.to_registered(candidate)
    opened = await returned(harness)
    await tell(harness, k.route(NEW, epoch=4), "return")
    await harness.handle(candidate, k.cancel(candidate))
    *_, end = harness.published(f.ReleaseFinished)
    assert (end.release_id, end.outcome, end.target) == (opened.release_id, "promoted", NEW)
    assert [order.release_id for order in harness.published(f.TrafficRequested)].count(opened.release_id) == 0
    assert (await harness.model()).open == ()


async def test_one_that_waits_makes_way_for_a_newer_one_that_waits(harness):
    for attempt in (3, 4):
        await harness.admit(f"e{attempt}", attempt=attempt)
        await harness.to_registered(harness.published(f.ReleaseOpened)[-1].release_id)
    opened = await returned(harness)
    await harness.sweep()
    *_, end = harness.published(f.ReleaseFinished)
    assert (end.release_id, end.outcome) == (opened.release_id, "superseded")

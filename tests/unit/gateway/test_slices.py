"""A slice of live traffic as callers and telemetry see it, on fakes: drawn by the gateway, labelled, over by itself."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from contracts.slices import LONGEST, Slice
from services.gateway.slice_table import SliceTable
from shared.errors import Transient
from testbed.factories import MODEL, route, served, target
from tests.unit.gateway.fakes import FakeEngine, StepClock
from tests.unit.gateway.world import STAGING, World, only_active

ASKED = 200


def part(clock, *, lasts_s=30.0, begun_s=0.0, **changes):
    now = clock.now() - timedelta(seconds=begun_s)
    whole = {"slice_id": "slice-1", "target": target(7), "behind": target(6), "share_ratio": 0.25}
    return Slice(**(whole | {"starts_at": now, "expires_at": now + timedelta(seconds=lasts_s)} | changes))


def behind(**changes):
    return only_active().model_copy(update={"previous": served(6, pair_ratio=0.0), **changes})


async def sliced(*routes, world=None, **changes):
    world = world or World(*(routes or (behind(),)))
    await world.slices.apply(MODEL, part(world.clock, **changes), 1)
    return world


async def ask(world, count=ASKED, **changes):
    """Return how many requests each version answered, and how many are labelled."""
    before = len(world.records)
    for _ in range(count):
        assert (await world.chat(**changes)).status_code == 200
    records = world.records[before:]
    versions = [record.target.version for record in records]
    return versions.count(7), versions.count(6), sum(record.slice is not None for record in records)


async def test_a_share_of_the_requests_goes_to_the_version_behind_and_both_sides_are_labelled():
    world = await sliced()
    active, other, labelled = await ask(world)
    assert (active + other, labelled) == (ASKED, ASKED)
    assert 0.15 * ASKED <= other <= 0.35 * ASKED
    answer = await world.chat()
    assert answer.headers["x-slipway-slice"] == "slice-1"
    assert {record.canary for record in world.records} == {False}
    assert (await world.admin.get("/readyz")).json()["checks"]["slices"] == f"slice-1 on {target(6)}"


async def test_without_a_slice_nothing_is_labelled():
    world = World(behind())
    assert await ask(world, 5) == (5, 0, 0)
    assert "x-slipway-slice" not in (await world.chat()).headers
    assert (await world.admin.get("/readyz")).json()["checks"]["slices"] == "none"


@pytest.mark.parametrize(
    "ended",
    [
        {"share_ratio": 0.0},
        {"begun_s": 31.0},
        {"target": target(5)},
        {"behind": target(5)},
        {"lasts_s": -1.0},
    ],
)
async def test_what_is_over_or_names_other_versions_changes_nothing(ended):
    world = await sliced(**ended)
    assert await ask(world, 40) == (40, 0, 0)


async def test_a_slice_ends_by_itself_whatever_the_wall_clock_and_the_bus_do():
    world = await sliced(lasts_s=7_200.0)
    await world.clock.pause(LONGEST.total_seconds() + 1)
    assert await ask(world, 40) == (40, 0, 0)
    again = await sliced(lasts_s=30.0)
    await again.clock.pause(31)
    await again.slices.apply(MODEL, part(again.clock, begun_s=31.0), 2)
    assert await ask(again, 40) == (40, 0, 0), "passed again"


async def test_a_change_of_the_route_ends_it_at_the_next_request():
    world = await sliced()
    assert (await ask(world, 100))[1] > 0
    rolled_back = behind(active=served(6, pair_ratio=0.0), previous=None, quarantined=(target(7),), epoch=99)
    await world.table.apply(MODEL, rolled_back, 1)
    before = len(world.records)
    await ask(world, 20)
    assert {record.slice for record in world.records[before:]} == {None}


@pytest.mark.parametrize(
    ("routes", "changes"),
    [
        ((behind(),), {"model": f"{MODEL}@v7"}),
        ((behind(),), {"model": f"{MODEL}@v6"}),
        ((behind(quarantined=(target(6),)),), {}),
        ((behind(previous=served(6, context_tokens=64)),), {}),
        ((behind(previous=served(6, chat_template=None)),), {}),
        ((behind(previous=None),), {}),
    ],
)
async def test_what_another_version_may_not_answer_stays_where_it_was_sent(routes, changes):
    world = await sliced(*routes)
    await ask(world, 30, **changes)
    assert {record.slice for record in world.records} == {None}
    assert len({record.target for record in world.records}) == 1


async def test_the_share_of_a_canary_is_not_drawn_from():
    world = await sliced(route(active=served(7), previous=served(6)))
    canary = world.table.get(MODEL).canary
    assert canary is not None
    await ask(world, 200)
    asked = [record for record in world.records if record.target == canary.served.target]
    assert asked
    assert {(record.slice, record.canary) for record in asked} == {(None, True)}


async def test_staging_has_no_slices():
    world = await sliced(world=World(behind(), staging=(behind(),)))
    for _ in range(30):
        await world.chat(headers=STAGING)
    assert {(record.target.version, record.slice) for record in world.records} == {(7, None)}


async def test_a_request_of_the_slice_that_the_version_behind_fails_is_answered_by_the_active_one():
    engine = FakeEngine(poison={"hello": Transient("engine_failed", "It failed.")}, faulty={str(target(6))})
    world = await sliced(world=World(behind(), engine=engine))
    for _ in range(20):
        answer = await world.chat()
        assert answer.status_code == 200
    rescued = [record for record in world.records if record.rescued_by is not None]
    assert rescued
    assert {(record.target, record.rescued_by, record.slice) for record in rescued} == {
        (target(6), target(7), "slice-1")
    }


async def test_a_version_behind_that_cannot_be_reached_ends_the_slice_and_no_caller_notices():
    refused = {"hello": Transient("endpoint_unreachable", "Connection refused.")}
    world = await sliced(world=World(behind(), engine=FakeEngine(poison=refused, faulty={str(target(6))})))
    for _ in range(40):
        assert (await world.chat()).status_code == 200
    (tried,) = (record for record in world.records if record.target == target(6))
    assert (tried.error, tried.caused_by, tried.rescued_by) == ("endpoint_unreachable", "infrastructure", target(7))
    assert not world.slices.has(MODEL)
    await world.slices.apply(MODEL, part(world.clock), 2)
    assert not world.slices.has(MODEL), "passed again"


async def test_after_a_death_of_an_engine_no_request_is_sent_to_the_version_behind():
    """What killed the active version's engine, or may have, would end the engine of the one behind it, too."""
    deadly = {"What kills it": Transient("engine_dead", "It died.")}
    world = await sliced(world=World(behind(), engine=FakeEngine(poison=deadly)), share_ratio=1e-9)
    await world.chat()  # the engine was alive before
    await world.complete(prompt="What kills it")
    deadly.clear()
    await world.slices.apply(MODEL, part(world.clock, slice_id="slice-2"), 2)
    assert await ask(world, 40) == (40, 0, 0)
    await world.clock.pause(world.settings.body_ban_s + 1)
    await world.slices.apply(MODEL, part(world.clock, slice_id="slice-3"), 3)
    assert (await ask(world, 40))[2] == 40, "it was long ago"


async def test_no_caller_chooses_its_side():
    """The draw is by the gateway's own id: the same request of the same user meets both versions."""
    world = await sliced()
    _, other, _ = await ask(world, 80, user="the same", headers={"x-request-id": "the-same"})
    assert 0 < other < 80


async def test_a_record_under_another_key_is_ignored_with_a_log():
    clock = StepClock()
    table = SliceTable(clock)
    with capture_logs() as logs:
        await table.apply("other", part(clock), 1)
    assert table.active() == []
    assert [entry["log_level"] for entry in logs] == ["error"]


@given(ahead_s=st.floats(-1e6, 1e6), lasts_s=st.floats(-10, 1e6))
async def test_whatever_clocks_show_no_slice_lasts_longer_than_the_longest(ahead_s, lasts_s):
    clock = StepClock()
    table = SliceTable(clock)
    await table.apply(MODEL, part(clock, begun_s=ahead_s, lasts_s=lasts_s), 1)
    await clock.pause(LONGEST.total_seconds() + 0.1)
    assert table.active() == []


async def test_what_is_admitted_is_reported_as_offered_once():
    world = World(behind())
    await ask(world, 3)
    await world.chat(model=f"{MODEL}@v6")
    offered = world.shares.report().offered[MODEL]
    assert offered.requests == 4
    assert 4 * offered.longest >= offered.tokens > offered.longest > 0
    assert world.shares.report().offered == {}


async def test_what_a_keys_limits_refuse_is_not_offered():
    world = World(behind(), max_body_bytes=1024)
    assert (await world.chat(user="x" * 2000)).status_code == 413
    assert world.shares.report().offered == {}

"""The bucket of routes is emptied or restored: what is known goes on serving, and what is quarantined stays so."""

import pytest

from contracts.routes import CanaryShare, Route
from decisions.routes.edits import promote, roll_back
from services.gateway.routing.tables import SETTLE_S, RouteTable
from shared.storage.kv import Snapshot
from testbed.factories import MODEL, served
from tests.unit.gateway.fakes import StepClock
from tests.unit.gateway.world import World

V5, V6, V7, V8 = (served(version) for version in (5, 6, 7, 8))
BEFORE = Route(model=MODEL, epoch=9, active=V7, previous=V6, cause_id="promoted")
AFTER = roll_back(BEFORE, V7.target, cause_id="alert").route
"""Version 7 was rolled back: the gateway serves version 6 at epoch 10."""


@pytest.fixture
def clock():
    return StepClock()


@pytest.fixture
async def table(clock):
    table = RouteTable({}, None, clock=clock)
    await table.apply(MODEL, AFTER, 40)
    return table


def there(*models, identity="one"):
    return Snapshot(identity, frozenset(models))


def active(table):
    return table.get(MODEL).active.target.version


@pytest.mark.parametrize("snapshot", [there(), there("other-bot"), Snapshot(None, frozenset())])
async def test_an_absent_route_goes_on_serving_and_is_named(table, snapshot):
    await table.note_bucket(snapshot)
    assert (active(table), table.lost, table.problem) == (6, [MODEL], f"routes_lost: {MODEL}")
    await table.note_bucket(there(MODEL))
    assert (table.lost, table.problem) == ([], "")


async def test_saved_routes_are_lost_too_when_the_bucket_of_a_new_start_is_empty():
    table = RouteTable({MODEL: AFTER}, None)
    assert table.lost == [], "nothing is known about the bucket before it was read"
    await table.note_bucket(there())
    assert (table.lost, active(table)) == ([MODEL], 6)


async def test_a_restored_route_of_the_same_content_changes_nothing(table):
    await table.apply(MODEL, AFTER, 3)
    assert (table.get(MODEL), table.problem) == (AFTER, "")


@pytest.mark.parametrize("revision", [3, 400])
async def test_an_older_route_is_not_taken_and_named(table, revision):
    await table.apply(MODEL, BEFORE, revision)
    assert active(table) == 6
    assert table.problem == f"routes_older: {MODEL} (serving epoch 10, the bucket has 9)"


@pytest.mark.parametrize("revision", [3, 400])
async def test_the_route_that_was_written_back_ends_it(table, revision):
    await table.apply(MODEL, BEFORE, revision)
    await table.apply(MODEL, AFTER, revision + 1)
    assert table.problem == ""


async def test_a_rollback_on_a_restored_bucket_is_in_force_at_once(table):
    """Who rolls back remembers the newer route too, so its edit has a higher epoch; the revision is lower."""
    await table.apply(MODEL, BEFORE, 3)
    later = promote(AFTER, V8, weight_ratio=1.0, epoch=10, cause_id="order").route
    await table.apply(MODEL, later, 4)
    assert (active(table), table.problem) == (8, "")
    await table.apply(MODEL, roll_back(later, V8.target, cause_id="alert 2").route, 5)
    assert active(table) == 6


async def test_an_older_bucket_that_is_edited_is_followed_after_a_while(table, clock):
    """Nobody is left who remembers the newer route: the bucket counts again, or no edit would ever be in force."""
    old = Route(model=MODEL, epoch=4, active=V6, previous=V5)
    await table.apply(MODEL, old, 3)
    await clock.pause(SETTLE_S * 3)
    await table.note_bucket(there(MODEL))
    assert table.get(MODEL) == AFTER, "a bucket that is not edited is not followed"
    edited = roll_back(old, V6.target, cause_id="by hand").route
    await table.apply(MODEL, edited, 4)
    assert (table.get(MODEL), table.problem) == (edited, "")


async def test_an_edit_right_after_a_restore_waits_for_a_newer_route_to_be_written_back(table, clock):
    old = Route(model=MODEL, epoch=4, active=V6, previous=V5)
    await table.apply(MODEL, old, 3)
    await table.apply(MODEL, edited := roll_back(old, V6.target, cause_id="by hand").route, 4)
    await table.note_bucket(there(MODEL))
    assert table.get(MODEL) == AFTER
    await clock.pause(SETTLE_S)
    await table.note_bucket(there(MODEL))
    assert table.get(MODEL) == edited


async def test_an_edited_backup_never_brings_a_quarantined_version_back(table, clock):
    """Edit by edit it overtakes the epoch that the gateway serves; version 7 takes no traffic all the same."""
    await table.apply(MODEL, BEFORE, 3)
    await clock.pause(SETTLE_S * 3)
    trial = promote(BEFORE, V8, weight_ratio=0.1, epoch=9, cause_id="canary").route
    await table.apply(MODEL, trial, 4)
    over = trial.model_copy(update={"epoch": 12, "canary": CanaryShare(served=V8, weight_ratio=0.0)})
    await table.apply(MODEL, over, 5)
    await clock.pause(SETTLE_S)
    await table.note_bucket(there(MODEL))
    assert active(table) == 6
    assert "routes_older" in table.problem
    back = roll_back(over, V7.target, cause_id="by hand").route
    await table.apply(MODEL, back, 6)
    assert (table.get(MODEL), table.problem) == (back, "")


async def test_an_empty_route_retires_a_model_and_is_not_lost(table):
    await table.apply(MODEL, Route(model=MODEL, epoch=11), 41)
    await table.note_bucket(there(MODEL))
    assert (table.get(MODEL).active, table.problem) == (None, "")


async def test_a_saved_route_of_a_higher_epoch_is_kept_over_the_bucket(clock):
    table = RouteTable({MODEL: AFTER}, None, clock=clock)
    await table.apply(MODEL, BEFORE, 900)
    assert active(table) == 6


async def test_staging_follows_its_bucket_whatever_the_epoch():
    table = RouteTable({}, None, "staging")
    await table.apply(MODEL, AFTER, 40)
    await table.apply(MODEL, BEFORE, 3)
    await table.note_bucket(there())
    assert (active(table), table.problem) == (7, "")


async def test_readiness_the_metrics_and_the_list_of_models():
    world = World(AFTER)
    before = (await world.http.get("/v1/models")).json()
    await world.table.note_bucket(there())
    answer = await world.admin.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["checks"]["routes"] == f"1 (saved); routes_lost: {MODEL}"
    assert world.metric("slipway_gateway_routes_lost ") == ["slipway_gateway_routes_lost 1.0"]
    assert (await world.http.get("/v1/models")).json() == before
    assert (await world.chat()).status_code == 200
    await world.table.apply(MODEL, BEFORE, 3)
    assert "slipway_gateway_routes_older 1.0\n" in (await world.admin.get("/metrics/")).text
    assert world.metric("slipway_gateway_routes_older ") == ["slipway_gateway_routes_older 1.0"]

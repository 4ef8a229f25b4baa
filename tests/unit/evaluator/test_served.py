"""What serves is asked its evaluations again: a fall below its own release is found, by two checks in a row."""

import pytest

from services.evaluator.domain.plan import METHOD
from shared.errors import Transient
from testbed import factories as f
from tests.unit.evaluator.served_versions import POLICY, World


def shown(checked):
    return [(check.target.version, check.is_fallen, check.in_a_row) for check in checked.checks]


async def serving(active=7, previous=6, **about):
    world = World(**about)
    await world.serve(active, previous)
    return world


async def test_versions_that_answer_as_at_their_release_are_asked_some_rows_once_a_day():
    world = await serving()
    first = await world.check(after_hours=0.0)
    assert shown(first) == [(7, False, 1), (6, False, 1)]
    assert [await world.check(after_hours=hours) for hours in (1.0, 22.0)] == [None, None]
    assert shown(await world.check()) == [(7, False, 2), (6, False, 2)]
    rows = [{row for version, row in world.engines.asked if version == side} for side in (7, 6)]
    assert all(30 < len(asked) <= 120 for asked in rows)
    assert "v7.int8 is not shown to be worse" in first.message


async def test_one_that_became_worse_is_found_and_the_other_is_not():
    world = await serving()
    world.engines.lost[7] = 0.6
    checks = [await world.check() for _ in range(3)]
    assert [shown(checked)[0] for checked in checks] == [(7, True, 1), (7, True, 2), (7, True, 3)]
    assert [shown(checked)[1] for checked in checks] == [(6, False, 1), (6, False, 2), (6, False, 3)]
    assert "mine: equals is lower by" in checks[0].message
    assert checks[0].checks[0].results[0].scores[0].active == 1.0, "as at its release"
    world.engines.lost.clear()
    assert shown(await world.check())[0] == (7, False, 1)


async def test_a_version_that_was_worse_than_another_one_at_its_release_has_not_fallen():
    world = World()
    world.engines.lost[7] = 0.4
    await world.serve(7, 6)
    assert [shown(await world.check())[0] for _ in range(2)] == [(7, False, 1), (7, False, 2)]


async def test_an_engine_that_fails_shows_nothing_and_one_that_is_away_is_asked_again():
    world = await serving()
    world.engines.lost[7] = 0.6
    await world.check()
    world.engines.failing[7] = "engine_failed"
    assert shown(await world.check())[0] == (7, True, 1), "neither one more nor one less"
    world.engines.failing[7] = "endpoint_unreachable"
    with pytest.raises(Transient):
        await world.check()
    world.engines.failing.clear()
    assert shown(await world.check(after_hours=0.0))[0] == (7, True, 2)


async def test_an_engine_that_failed_from_the_start_is_no_evidence():
    world = await serving()
    world.engines.failing[7] = "engine_failed"
    assert shown(await world.check())[0] == (7, False, 0)


async def test_without_a_trigger_nothing_is_asked():
    world = await serving(policy=POLICY.model_copy(update={"triggers": (f.trigger(),)}))
    assert await world.check() is None
    assert world.engines.asked == []


async def test_a_policy_that_cannot_be_read_is_read_again_and_the_base_has_none():
    world = await serving()
    world.policies[7] = None
    assert await world.check() is None
    del world.policies[7]
    assert await world.check() is not None
    world.routed = f.route(active=f.served(0), previous=f.served(7), canary=None)
    assert await world.check() is None


async def test_scores_by_other_scorers_or_of_another_set_are_not_compared():
    world = await serving()
    ours = world.reports[f.target(7)]
    assert ours.method == METHOD
    other = ours.results[0].model_copy(update={"rows_digest": f.digest("another")})
    for changed in ({"method": "0"}, {"results": (other,)}):
        world.reports[f.target(7)] = ours.model_copy(update=changed)
        assert await world.check() is None, "the previous one alone is no check"


async def test_of_two_processes_one_publishes():
    world = await serving()
    second = World(beside=world)
    world.engines.meanwhile = second.check
    await world.check()
    assert second.engines.asked
    assert len(world.published) == 1


async def test_checks_draw_other_rows():
    world = await serving()
    asked = []
    for _ in range(2):
        world.engines.asked.clear()
        await world.check()
        asked.append({row for version, row in world.engines.asked if version == 7})
    assert asked[0] != asked[1]

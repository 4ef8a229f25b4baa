"""What serves is asked its evaluations again: a fall below its own release is found, by two checks in a row."""

import pytest

from contracts.evaluations import Evaluations
from services.evaluator.domain.plan import METHOD
from shared.errors import Transient
from testbed import factories as f
from tests.unit.evaluator.served_versions import POLICY, World


def evaluations(sets):
    return Evaluations.model_validate({"sets": sets, "schedule": {}})


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


async def test_a_previous_version_that_is_away_leaves_the_check_of_the_active_one():
    world = await serving()
    world.engines.lost |= {7: 0.6, 6: 0.6}
    await world.check()
    world.engines.failing[6] = "endpoint_unreachable"
    checked = await world.check()
    assert shown(checked) == [(7, True, 2), (6, True, 1)], "of the previous one what was known remains"
    assert "v6.int8 did not answer" in checked.message


async def test_a_check_that_does_not_decide_leaves_what_was_known():
    world = await serving()
    world.engines.lost[7] = 0.6
    for _ in range(2):
        await world.check()
    world.engines.lost[7] = 0.2
    checked = await world.check()
    assert shown(checked)[0] == (7, True, 2)
    assert "which do not decide: equals is lower by" in checked.message


async def test_a_new_version_is_asked_at_once_and_what_cannot_be_compared_once_per_interval():
    world = await serving()
    await world.check()
    await world.serve(8, 7)
    assert shown(await world.check(after_hours=0.1)) == [(8, False, 1), (7, False, 2)]
    del world.reports[f.target(8)]
    world.engines.asked.clear()
    world.reads = 0
    assert [await world.check(after_hours=hours) for hours in (24.0, 0.1, 12.0)] == [None] * 3
    assert (world.engines.asked, world.reads) == ([], 1), "nor the previous one"


async def test_a_set_that_was_erased_cannot_be_compared():
    world = await serving()
    world.erased = True
    assert [await world.check(after_hours=hours) for hours in (24.0, 1.0)] == [None] * 2


async def test_the_total_loss_of_a_scorer_that_few_rows_are_about_is_found():
    lines = [{"prompt": f"row {number}", "expected": "right"} for number in range(180)]
    lines += [{"prompt": f"json {number}", "expect": {"json_schema": {"type": "object"}}} for number in range(20)]
    scorers = [{"kind": kind} for kind in ("equals", "json_schema", "length", "repetition", "refusal", "contains")]
    sets = [{"name": "mine", "scorers": scorers, "max_rows": 200}]
    world = await serving(policy=POLICY.model_copy(update={"evaluations": evaluations(sets)}), lines=lines)
    world.engines.json = "Sure!"
    checked = await world.check()
    assert shown(checked) == [(7, True, 1), (6, True, 1)]
    (result,) = checked.checks[0].results
    assert [limit.scorer for limit in result.limits if limit.decision == "missed"] == ["json_schema"]
    world.engines.json = "{}"
    assert shown(await world.check())[0] == (7, False, 1)


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

"""Announcements that wait behind a backlog of others: taken in turn by team, in order within a model, once."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.teams import Team, TeamQuota
from services.registry.overtaking import MOST_AT_ONCE, group_of, in_turn
from testbed.factories import PUBLISHER
from tests.kit import fakes_registry as k
from tests.kit.soak import often
from tests.unit.registry.harness import Announcing

CALM = "calm-bot"


@pytest.fixture
def harness():
    return Announcing()


async def overtake(harness):
    await harness.registry.sweepers[2].sweep()
    await asyncio.gather(*harness.registry.admissions._running.values())


def team(name, *models, **quota):
    return Team(name=name, models=models, unrestricted=(PUBLISHER,), quota=TeamQuota(**quota))


async def test_an_announcement_behind_many_of_another_team_is_admitted_before_them(harness):
    harness.out.teams = (team("shop", k.MODEL), team("bank", CALM))
    for attempt in range(1, 50):
        harness.store(k.MODEL, attempt=attempt)
    behind = harness.store(CALM)
    await overtake(harness)
    assert harness.opened(CALM) == [1]
    assert len((await harness.record(k.MODEL)).waiting) + len(harness.opened(k.MODEL)) == MOST_AT_ONCE
    await harness.announced(behind)
    assert (harness.opened(CALM), harness.rejected()) == ([1], []), "its turn in the stream changes nothing"


async def test_what_was_refused_out_of_turn_is_refused_once(harness):
    harness.out.teams = (team("shop", k.MODEL, announcements_per_minute=1),)
    stored = [harness.store(k.MODEL, attempt=attempt) for attempt in (1, 2, 3)]
    await overtake(harness)
    for each in stored:
        await harness.announced(each)
    assert harness.opened(k.MODEL) == [1]
    assert harness.rejected() == [(k.MODEL, "team_quota_exceeded")] * 2


async def test_one_that_waits_alone_is_left_to_its_turn(harness):
    harness.store(k.MODEL)
    await overtake(harness)
    assert harness.opened(k.MODEL) == []


@settings(max_examples=often(25), deadline=None)
@given(st.lists(st.tuples(st.sampled_from([k.MODEL, CALM]), st.booleans()), min_size=2, max_size=12))
def test_whatever_is_taken_first_the_versions_of_a_model_are_those_of_the_stream(steps):
    """Each step stores an announcement, and lets the stream or a sweep go on."""

    async def run():
        harness = Announcing()
        stored, taken, expected = [], 0, {k.MODEL: [], CALM: []}
        for number, (model, sweep) in enumerate(steps, 1):
            stored.append(harness.store(model, attempt=number))
            expected[model].append(stored[-1][0].id)
            if sweep:
                await overtake(harness)
            else:
                await harness.announced(stored[taken])
                taken += 1
                harness.out.inbox.acked_up_to = taken
        for each in stored[taken:]:
            await harness.announced(each)
        await harness.sweep()
        for model, ids in expected.items():
            opened = [
                emit.fact.source_event_id
                for emit in harness.out.publisher.published
                if emit.model == model and hasattr(emit.fact, "source_event_id")
            ]
            assert opened == ids

    asyncio.run(run())


def test_models_take_turns_and_teams_share_theirs():
    assert in_turn(["c", "a", "b"], None) == ["a", "b", "c"]
    assert in_turn(["c", "a", "b"], "a") == ["b", "c", "a"]
    teams = (team("shop", "a", "b"),)
    assert group_of("a", teams) == group_of("b", teams) != group_of("c", teams) == group_of("d", teams)
    assert group_of("c", ()) != group_of("d", ())

"""Golden prompts: what our own probes show is an alert of its own."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest

from contracts import facts as cf
from contracts.golden import Expectation, GoldenPrompt, GoldenPrompts
from decisions.evidence.golden import CHECK_S, GoldenReply
from services.rollback_controller.domain.record import GOLDEN_KEPT, RollbackState, record_policy
from services.rollback_controller.golden_probes import GoldenProbes
from shared.runtime.clock import Clock
from testbed import factories as f
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.world import World

TRIGGERS = (
    f.trigger(name="slow", metric="ttft_ms", threshold=800.0),
    f.trigger(name="errors", metric="error_ratio", threshold=0.02),
    f.trigger(name="empty", metric="empty_ratio", threshold=0.02),
)
WELL = Expectation(contains=("well",))
GOLDEN = GoldenPrompts(
    prompts=tuple(GoldenPrompt(name=name, prompt="How?", expect=WELL) for name in ("first", "second", "third")),
    every_s=30.0,
)
ACTIVE, PREVIOUS = (str(f.target(version)) for version in (7, 6))


async def started(*, golden=GOLDEN, **served) -> World:
    world = World()
    world.asks_golden = True
    world.serve(**served)
    world.open_releases(6, 7, triggers=TRIGGERS, golden=golden)
    world.start()
    await asyncio.sleep(10)
    return world


def alerts(world):
    """Return what was said of falls: raised or resolved, with the last sentence."""
    facts = [fact for kind in (cf.AlertRaised, cf.AlertResolved) for fact in world.log.facts(kind)]
    return [(type(fact), fact.message) for fact in facts if fact.alert_id.startswith("golden-")]


@dataclass(frozen=True)
class Behind:
    """The clock of another machine, two seconds behind."""

    clock: Clock

    def now(self):
        return self.clock.now() - timedelta(seconds=2)


def checks(world):
    return world.log.facts(cf.GoldenChecked)


@virtual_time
async def test_a_fall_that_two_checks_show_is_an_alert_until_one_shows_none():
    world = await started()
    world.probe.replies[ACTIVE, "second"] = "no"
    await asyncio.sleep(30)
    assert alerts(world) == [], "one check is no evidence"
    await asyncio.sleep(300)
    ((kind, message),) = alerts(world)
    assert (kind, message.endswith(f"Only {ACTIVE} fails second.")) == (cf.AlertRaised, True)
    assert world.route().active.target == f.target(7), "it moves no traffic"
    world.probe.replies.clear()
    await asyncio.sleep(60)
    assert [kind for kind, _ in alerts(world)] == [cf.AlertRaised, cf.AlertResolved]
    await world.stop()


@virtual_time
async def test_the_alert_ends_with_its_version():
    world = await started()
    world.probe.replies[ACTIVE] = "no"
    await asyncio.sleep(120)
    world.serve(6, 5, history=())
    await asyncio.sleep(60)
    assert [kind for kind, _ in alerts(world)] == [cf.AlertRaised, cf.AlertResolved]
    await world.stop()


@pytest.mark.parametrize("replies", [{}, {ACTIVE: "no", PREVIOUS: "no"}, {PREVIOUS: "no"}, {ACTIVE: None}])
@virtual_time
async def test_without_a_fall_of_this_version_alone_there_is_no_alert(replies):
    world = await started()
    world.probe.replies |= replies
    await asyncio.sleep(300)
    assert alerts(world) == []
    await world.stop()


@virtual_time
async def test_what_is_new_is_published_once():
    world = await started()
    world.probe.replies[ACTIVE, "first"] = "no"
    await asyncio.sleep(300)
    world.probe.replies.clear()
    await asyncio.sleep(300)
    seen = [(fact.fallen, fact.agreeing) for fact in checks(world)]
    assert seen == [((), 0), (("first",), 1), (("first",), 2), ((), 0)]
    assert checks(world)[1].outcomes[0] == cf.GoldenOutcome(
        name="first", target=False, other=True, reason="it does not contain 'well'"
    )
    assert world.published().count(world.published()[0]) == 1
    await world.stop()


@virtual_time
async def test_both_versions_are_asked_each_prompt_at_the_declared_rhythm():
    world = await started()
    await asyncio.sleep(300)
    asked = world.probe.golden
    assert {name: asked.count(name) for name in set(asked)} == {
        (side, prompt.name): 11 for side in (ACTIVE, PREVIOUS) for prompt in GOLDEN.prompts
    }
    await world.stop()


@virtual_time
async def test_a_queue_in_an_engine_defers_checks_but_not_for_ever():
    """Callers can fill the queue; they could else keep a fall from being seen."""
    world = await started()
    busy = GoldenReply("no", queue_ms=900.0)
    world.probe.replies[ACTIVE] = busy
    world.probe.golden.clear()
    await asyncio.sleep(30)
    assert [prompt for _, prompt in world.probe.golden] == ["first", "first"], "left out after the first prompt"
    await asyncio.sleep(5 * 30)
    assert [kind for kind, _ in alerts(world)] == [cf.AlertRaised]
    await world.stop()


@virtual_time
async def test_of_two_processes_one_asks():
    world = await started()
    states, behind = world.controller.states, Behind(world.clock)
    second = GoldenProbes(states, world.routes, world.probe, behind)
    world.probe.golden.clear()
    for _ in range(60):
        await asyncio.sleep(1)
        await second.sweep(("production", f.MODEL))
    assert len(world.probe.golden) == 2 * 2 * len(GOLDEN.prompts)
    await world.stop()


@virtual_time
async def test_a_check_whose_process_died_is_made_by_the_next():
    world = await started()
    world.probe.takes_s = 20.0
    await asyncio.sleep(30)
    assert world.state().checks.is_open
    await world.life.close()
    world.probe.takes_s = 0.0
    world.start()
    world.probe.golden.clear()
    await asyncio.sleep(CHECK_S + 10)
    assert world.probe.golden
    assert not world.state().checks.is_open
    await world.stop()


@virtual_time
async def test_prompts_that_there_is_no_time_for_show_nothing():
    world = await started()
    world.probe.takes_s = 50.0
    world.probe.replies[ACTIVE] = "no"
    await asyncio.sleep(2 * CHECK_S + 60)
    last = checks(world)[-1]
    assert [outcome.target for outcome in last.outcomes] == [False, False, None]
    assert "1 had no answer in time" in last.message
    await world.stop()


@virtual_time
async def test_a_first_version_is_asked_alone():
    world = await started(previous=None, history=())
    world.probe.replies[ACTIVE] = "no"
    await asyncio.sleep(120)
    assert {side for side, _ in world.probe.golden} == {ACTIVE}
    assert alerts(world) == []
    await world.stop()


def test_golden_prompts_of_old_versions_are_removed_but_not_of_those_on_the_route():
    state, route = RollbackState(model=f.MODEL, environment="production"), f.route(active=f.served(1))
    for version in range(1, 40):
        state = record_policy(state, version, f.policy(triggers=TRIGGERS, golden=GOLDEN), route)
    assert len(state.golden) == GOLDEN_KEPT
    assert {"1", "39"} <= set(state.golden)
    assert len(state.triggers) == 39

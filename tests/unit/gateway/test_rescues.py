"""A request that the engine failed is answered by the version behind: labelled, within budgets, and no evidence."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.evidence.triggers import observe
from services.gateway.api.endpoint import RESCUED as HEADER
from services.gateway.callers.budgets import RescueBudgets
from shared.errors import Permanent, Transient
from testbed import factories as f
from tests.kit.drills import drill
from tests.kit.virtual_time import virtual_time
from tests.unit.gateway.fakes import FakeEngine, StepClock
from tests.unit.gateway.world import World, only_active

BROKE = Transient("engine_failed", "KeyError: 7")
DEAD = Transient("engine_dead", "the engine is dead")
NEW, OLD = str(f.target(7)), str(f.target(6))
ERRORS = f.trigger(metric="error_ratio", threshold=0.02)


def world(error=BROKE, *, faulty=frozenset({NEW}), **limits):
    return World(only_active(), engine=FakeEngine(poison={"hello": error}, faulty=faulty), **limits)


def rescued(world):
    return {line.split('"')[1]: float(line.split()[-1]) for line in world.metric("slipway_gateway_rescued_total{")}


@pytest.mark.parametrize("stream", [False, True])
async def test_the_version_behind_answers_and_the_failure_counts_as_before(stream):
    behind = world()
    answer = await behind.chat(stream=stream)
    assert answer.status_code == 200
    assert "w0" in answer.text
    assert (answer.headers["x-slipway-version"], answer.headers[HEADER]) == (OLD, NEW)
    (record,) = behind.records
    assert (record.target, record.error, record.caused_by) == (f.target(7), "engine_failed", "target")
    assert record.rescued_by == f.target(6)
    assert observe(ERRORS, record) is True
    assert rescued(behind) == {"answered": 1.0}


async def test_it_is_tried_once_more_on_its_own_target_first():
    behind = World(only_active(endpoints=("a:1",)), engine=FakeEngine(failures={"a:1": [BROKE]}))
    answer = await behind.chat()
    assert HEADER not in answer.headers
    assert {name for _, name, _ in behind.engine.calls} == {NEW}
    assert behind.records[0].error is None


async def test_what_both_versions_fail_is_answered_as_a_failure_of_the_callers():
    both = world(faulty=None)
    answer = await both.chat()
    assert (answer.status_code, answer.headers["x-slipway-version"]) == (502, NEW)
    assert [(record.caused_by, record.rescued_by) for record in both.records] == [("caller", None)]
    assert rescued(both) == {"failed": 1.0}


@pytest.mark.parametrize(
    "error",
    [
        Transient("engine_dead", "the engine is dead"),
        Transient("no_first_token", "silent for 60 s"),
        Transient("endpoint_unreachable", "gone"),
        Transient("deadline_exceeded", "too long"),
    ],
)
async def test_only_what_the_engine_itself_failed_is_tried_elsewhere(error):
    plain = world(error)
    answer = await plain.chat()
    assert answer.status_code >= 400
    assert rescued(plain) == {}
    assert HEADER not in answer.headers


@pytest.mark.parametrize(("active_context", "tried"), [(2048, True), (1024, False)])
async def test_what_only_one_version_refuses_is_its_failure_unless_the_other_takes_longer_prompts(
    active_context, tried
):
    refuses = FakeEngine(poison={"there": Permanent("bad_request", "too long")}, faulty={NEW})
    plain = World(only_active(context_tokens=active_context), engine=refuses)
    assert (await plain.chat()).status_code == (200 if tried else 400)
    (record,) = plain.records
    assert (record.error, record.caused_by) == (("engine_failed", "target") if tried else (None, "caller"))


async def test_pinned_requests_and_what_a_drill_fails_stay_with_their_version():
    pinned = world()
    assert (await pinned.chat(model=f"{f.MODEL}@v7")).status_code == 502
    drilled = World(only_active())
    started = drill(fault={"error_ratio": 1.0})
    await drilled.drills.apply(f"production.{started.target.model}", started, 1)
    assert (await drilled.chat()).status_code == 502
    assert rescued(pinned) == rescued(drilled) == {}


async def test_an_answer_that_had_begun_is_not_begun_again():
    broken = World(only_active(), engine=FakeEngine(break_after=(2, BROKE), faulty={NEW}))
    answer = await broken.chat(stream=True, max_tokens=5)
    assert "engine_failed" in answer.text
    assert rescued(broken) == {}


async def test_past_the_budget_errors_are_errors_and_never_innocent():
    poor = world(rescues_per_caller=2)
    statuses = [(await poor.chat()).status_code for _ in range(5)]
    assert statuses == [200, 200, 502, 502, 502]
    assert {record.caused_by for record in poor.records} == {"target"}
    assert rescued(poor) == {"answered": 2.0, "over_budget": 3.0}
    none = world(rescues_per_minute=0)
    assert (await none.chat()).status_code == 502


@pytest.mark.parametrize(
    ("behind", "caused_by"),
    [
        (BROKE, "caller"),
        (DEAD, "infrastructure"),
        (Transient("endpoint_unreachable", "gone"), "target"),
        (Transient("no_first_token", "silent"), "target"),
    ],
)
async def test_a_version_behind_that_cannot_be_asked_excuses_nothing(behind, caused_by):
    broken = World(only_active(), engine=Deadly({("", NEW): BROKE, ("", OLD): behind}))
    assert (await broken.chat()).status_code == 502
    assert [record.caused_by for record in broken.records] == [caused_by]


async def test_a_canarys_rescue_counts_against_the_canary():
    canary = f.CanaryShare(served=f.served(8), weight_ratio=0.99)
    engine = FakeEngine(poison={"hello": BROKE}, faulty={str(f.target(8))})
    trial = World(f.route(canary=canary, active=f.served(7)), engine=engine)
    answers = [await trial.chat() for _ in range(10)]
    assert {answer.headers["x-slipway-version"] for answer in answers} == {NEW}
    failed = [record for record in trial.records if record.canary]
    assert len(failed) >= 9
    assert {(record.target, record.error) for record in failed} == {(f.target(8), "engine_failed")}


async def test_it_is_charged_once():
    plain, behind = World(only_active()), world()
    for each in (plain, behind):
        await each.chat()
    assert plain.budgets.used("0123456789ab") == behind.budgets.used("0123456789ab") > 0


@virtual_time
async def test_a_caller_that_leaves_during_a_rescue_hides_no_failure():
    class Slow(FakeEngine):
        async def send(self, endpoint, target, request):
            if str(target) == OLD:
                asked.set()
                await asyncio.sleep(0.05)
            async for piece in super().send(endpoint, target, request):
                yield piece

    asked = asyncio.Event()
    left = World(only_active(), engine=Slow(poison={"hello": BROKE}, faulty={NEW}))
    caller = asyncio.ensure_future(left.chat())
    await asked.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    for _ in range(20):
        await asyncio.sleep(0.02)
    assert [record.error for record in left.records] == ["engine_failed"]
    assert left.budgets.used("0123456789ab") > 0, "its prompt is charged: the version behind reads it"


def test_the_processes_of_a_gateway_share_its_budgets():
    parts = [RescueBudgets(StepClock(), per_minute=10, per_caller=4, workers=4) for _ in range(4)]
    assert sum(part.admit("shop") for part in parts for _ in range(10)) == 4
    assert sum(part.admit(str(number)) for part in parts for number in range(10)) == 4
    none = RescueBudgets(StepClock(), per_minute=0, per_caller=4, workers=4)
    assert not none.admit("shop")


class Deadly(FakeEngine):
    """A request that some targets fail and others die under, by endpoint or everywhere; probes are answered."""

    def __init__(self, rules):
        super().__init__()
        self.rules = rules

    def _find_error(self, endpoint, target, text):
        probe = "there" not in text
        return None if probe else self.rules.get((endpoint, str(target))) or self.rules.get(("", str(target)))

    def sent(self, target):
        return sum("there" in text for _, name, text in self.calls if name == target)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
async def test_a_request_under_which_the_version_behind_died_goes_there_once(ratio):
    engine = Deadly({("", NEW): BROKE, ("", OLD): DEAD})
    deadly = World(only_active(pair_ratio=ratio), engine=engine, max_mirrors=100)
    for number in range(1, 9):
        assert (await deadly.chat()).status_code == 502
        for _ in range(50):
            await asyncio.sleep(0)
        assert engine.sent(OLD) == number, "no second try, no pair"
    assert {record.caused_by for record in deadly.records} == {"infrastructure"}


async def test_a_request_under_which_an_endpoint_died_goes_to_no_other_version_if_the_next_one_fails():
    engine = Deadly({("a:1", NEW): DEAD, ("b:1", NEW): BROKE})
    deadly = World(only_active(pair_ratio=0.5, endpoints=("a:1", "b:1")), engine=engine, max_mirrors=100)
    for _ in range(12):
        await deadly.chat()
        for _ in range(50):
            await asyncio.sleep(0)
    begun_at_a = [record for record in deadly.records if record.error == "engine_dead"]
    assert len(begun_at_a) > 2
    assert {record.caused_by for record in begun_at_a} == {"target"}
    assert engine.sent(OLD) == 0


@given(st.lists(st.sampled_from(["shop", "lab", "web"]), max_size=60))
def test_no_caller_takes_more_than_its_budget_and_all_no_more_than_theirs(asked):
    budgets = RescueBudgets(StepClock(), per_minute=10, per_caller=4)
    admitted = [name for name in asked if budgets.admit(name)]
    assert len(admitted) <= 10
    assert all(admitted.count(name) <= 4 for name in set(admitted))
    assert len(admitted) >= min(len(asked), 4)

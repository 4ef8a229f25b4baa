"""Attribution of failed requests: by the fallback, and never cached for another request."""

import asyncio

import pytest

from decisions.triggers import observe
from services.gateway.cross_checks import MAX_CONCURRENT, REQUEST_ID, CrossChecks, FailedRequest
from shared.errors import Permanent, Transient
from shared.serving.openai_stream import ApiRequest
from testbed import factories as f
from tests.unit.gateway.fakes import FakeEngine, StepClock, report
from tests.unit.gateway.world import World, only_active

BROKE = Transient("engine_failed", "KeyError: 7")
REFUSED = Permanent("bad_request", "too long")
ERRORS = f.trigger(metric="error_ratio", threshold=0.02)
NEW = {str(f.target(7))}


def alone():
    return f.route(canary=None, active=f.served(7), previous=None, history=())


def ends(world):
    return [(record.error, record.caused_by) for record in world.records]


async def parsed(world, words):
    for word in words:
        await world.chat(messages=[{"role": "user", "content": word}])


async def test_a_version_that_fails_a_fifth_is_seen_to_fail_a_fifth_though_it_answers_what_is_harmless():
    world = World(only_active(), engine=FakeEngine(poison={"odd": BROKE}, faulty=NEW))
    await parsed(world, ["odd", "plain", "plain", "plain", "plain"] * 40)
    seen = [observe(ERRORS, record) for record in world.records]
    assert (seen.count(True), seen.count(False), seen.count(None)) == (40, 160, 0)


async def test_what_the_fallback_fails_too_is_the_callers_however_often_it_comes():
    world = World(only_active(), engine=FakeEngine(poison={"odd": BROKE}))
    await parsed(world, ["odd"] * 50)
    assert set(ends(world)) == {("engine_failed", "caller")}


async def test_the_finding_about_one_body_is_not_used_for_another():
    world = World(only_active(), engine=FakeEngine(poison={"both": BROKE}))
    await parsed(world, ["both"])
    world.engine.faulty, world.engine.poison = NEW, {"only": BROKE}
    await parsed(world, ["only"])
    assert ends(world) == [("engine_failed", "caller"), ("engine_failed", "target")]


async def test_a_canary_is_compared_with_the_active_version():
    canary = f.CanaryShare(served=f.served(8), weight_ratio=0.99)
    world = World(
        f.route(canary=canary, active=f.served(7)), engine=FakeEngine(poison={"odd": BROKE}, faulty={str(f.target(8))})
    )
    await parsed(world, ["odd"] * 10)
    assert {record.caused_by for record in world.records if record.canary} == {"target"}


@pytest.mark.parametrize(("faulty", "caused_by"), [(NEW, "target"), (None, "caller")])
async def test_an_answer_that_breaks_off_is_asked_of_the_fallback_until_it_is_further(faulty, caused_by):
    world = World(only_active(), engine=FakeEngine(break_after=(5, BROKE), faulty=faulty))
    await world.chat(max_tokens=50)
    assert ends(world) == [("engine_failed", caused_by)]
    assert world.engine.aborted.count(REQUEST_ID) == 1, "it is not asked for more than is needed"


@pytest.mark.parametrize(
    ("failures", "caused_by"), [([BROKE, BROKE], "target"), ([BROKE, BROKE, None, BROKE], "caller")]
)
async def test_without_a_fallback_the_same_is_asked_once_more(failures, caused_by):
    class Engine(FakeEngine):
        async def send(self, endpoint, target, request):
            error = failures.pop(0) if failures else None
            if error is not None:
                yield report(error)
                return
            async for piece in super().send(endpoint, target, request):
                yield piece

    world = World(alone(), engine=Engine())
    await parsed(world, ["odd"])
    assert ends(world) == [("engine_failed", caused_by)]


async def test_a_fallback_that_is_not_loaded_proves_nothing_and_the_target_is_asked_again():
    world = World(only_active(), engine=FakeEngine(poison={"odd": BROKE}, loaded=NEW))
    await parsed(world, ["odd"])
    assert ends(world) == [("engine_failed", "caller")]


@pytest.mark.parametrize(("context", "end"), [(2048, ("engine_failed", "target")), (4096, (None, "caller"))])
async def test_a_refusal_counts_only_where_the_fallback_has_no_longer_context(context, end):
    route = f.route(canary=None, active=f.served(7), previous=f.served(6, context_tokens=context))
    world = World(route, engine=FakeEngine(poison={"odd": REFUSED}, faulty=NEW))
    await parsed(world, ["odd"])
    assert ends(world) == [end]


async def test_a_quarantined_version_is_never_asked():
    route = f.route(canary=None, active=f.served(7), previous=f.served(6), quarantined=(f.target(6),))
    world = World(route, engine=FakeEngine(poison={"odd": BROKE}, faulty=NEW))
    await parsed(world, ["odd"])
    assert ends(world) == [("engine_failed", "caller")]
    assert str(f.target(6)) not in {target for _, target, _ in world.engine.calls}


BREAKS = Transient("template_failed", "division by zero")
REFUSES = Transient("template_refused", "no")


@pytest.mark.parametrize(
    ("poison", "faulty", "end"),
    [
        ({"odd": BREAKS}, NEW, ("template_failed", "target")),
        ({"odd": BREAKS}, None, (None, "caller")),
        # Refused on purpose, but only by this version.
        ({"odd": REFUSES}, NEW, ("template_failed", "target")),
        ({"odd": REFUSES}, None, (None, "caller")),
        # A template must not refuse, or break on, everybody's conversation.
        ({"odd": REFUSES, "Hello": REFUSES}, NEW, ("template_failed", "target")),
        ({"odd": BREAKS, "brief": BREAKS}, None, ("template_failed", "target")),
        ({"odd": BREAKS, "brief": REFUSES}, None, (None, "caller")),
    ],
)
async def test_a_template_that_breaks_on_what_the_fallback_renders_is_attributed_to_the_target(poison, faulty, end):
    world = World(only_active(), engine=FakeEngine(poison=poison, faulty=faulty), rescues_per_minute=0)
    answer = await world.chat(messages=[{"role": "user", "content": "odd"}])
    assert ends(world) == [end]
    assert answer.status_code == (500 if end[0] else 400)
    assert answer.json()["error"]["code"] == (end[0] or "template_refused")


@pytest.mark.parametrize("context", [2048, 1_000_000])
async def test_a_template_that_refuses_what_the_fallbacks_renders_is_the_targets_whatever_their_contexts(context):
    route = f.route(canary=None, active=f.served(7), previous=f.served(6, context_tokens=context))
    world = World(route, engine=FakeEngine(poison={"odd": REFUSES}, faulty=NEW))
    await parsed(world, ["odd"])
    assert ends(world) == [("template_failed", "target")]


@pytest.mark.parametrize("loaded", [NEW, None])
async def test_a_template_that_refuses_without_a_fallback_to_compare_is_no_evidence(loaded):
    route = only_active() if loaded else alone()
    world = World(route, engine=FakeEngine(poison={"odd": REFUSES}, faulty=NEW, loaded=loaded))
    answer = await world.chat(messages=[{"role": "user", "content": "odd"}])
    assert answer.status_code == 400
    assert ends(world) == [(None, "caller")]


@pytest.mark.parametrize("code", ["schema_too_costly", "schemas_busy"])
async def test_a_refusal_that_depends_on_time_is_never_compared(code):
    world = World(only_active(), engine=FakeEngine(poison={"odd": Permanent(code, "later")}, faulty=NEW))
    await parsed(world, ["odd"])
    assert ends(world) == [(None, "caller")]
    assert len(world.engine.calls) == 1


@pytest.mark.parametrize("code", ["schema_too_costly", "schemas_busy"])
@pytest.mark.parametrize(("again", "caused_by"), [(None, "target"), (BROKE, "caller")])
async def test_a_fallback_that_has_no_time_for_a_schema_proves_nothing(code, again, caused_by):
    class Engine(FakeEngine):
        async def send(self, endpoint, target, request):
            if "odd" in request.body.decode() and str(target) not in NEW:
                yield report(Permanent(code, "later"))
                return
            if "odd" in request.body.decode() and request.request_id == REQUEST_ID and again is None:
                self.poison = {}
            async for piece in super().send(endpoint, target, request):
                yield piece

    world = World(only_active(), engine=Engine(poison={"odd": BROKE}))
    await parsed(world, ["odd"])
    assert ends(world) == [("engine_failed", caused_by)]


class Held(FakeEngine):
    """Answers `slow` prompts only when told to, from the fallback."""

    def __init__(self) -> None:
        super().__init__(poison={"slow": BROKE, "odd": BROKE}, faulty=NEW)
        self.waiting, self.all_wait, self.go_on = 0, asyncio.Event(), asyncio.Event()

    async def send(self, endpoint, target, request):
        if b"slow" in request.body and str(target) not in NEW:
            self.waiting += 1
            if self.waiting == MAX_CONCURRENT:
                self.all_wait.set()
            await self.go_on.wait()
        async for piece in super().send(endpoint, target, request):
            yield piece


async def test_where_all_comparisons_are_running_the_next_failure_is_not_attributed_and_counted():
    world = World(only_active(), engine=Held(), max_in_flight=100, rescues_per_minute=0)
    slow = [
        asyncio.create_task(world.chat(messages=[{"role": "user", "content": "slow"}])) for _ in range(MAX_CONCURRENT)
    ]
    await asyncio.wait_for(world.engine.all_wait.wait(), 5)
    await parsed(world, ["odd"])
    assert ends(world) == [("engine_failed", "infrastructure")]
    assert [line.split()[-1] for line in world.metric("slipway_gateway_unattributed_total")] == ["1.0"]
    world.engine.go_on.set()
    await asyncio.gather(*slow)
    assert ends(world)[1:] == [("engine_failed", "target")] * MAX_CONCURRENT


@pytest.mark.parametrize(("tokens", "limit_s"), [(0, 10.0), (400, 30.0), (100_000, 60.0)])
def test_a_comparison_has_more_time_the_later_the_answer_broke_off(tokens, limit_s):
    request = ApiRequest("POST", "/v1/completions", b"{}", 60.0)
    failed = FailedRequest(f.served(7), "127.0.0.1:1", request, "engine_failed", pytest.fail, tokens=tokens)
    assert CrossChecks(FakeEngine(), StepClock()).limit_s(failed) == pytest.approx(limit_s)

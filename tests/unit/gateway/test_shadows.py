"""A shadow: a candidate that takes no traffic is asked what callers asked, and no caller notices."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.routes import ShadowShare, Suspended
from decisions.evidence.triggers import observe
from services.gateway.api.body_bans import ONE_S as STILL_DEAD_S
from services.gateway.domain import routing
from services.gateway.domain.requests import read_request
from services.gateway.domain.routing import Choice, choose_pinned, choose_target, list_models
from shared.errors import Transient
from testbed import factories as f
from testbed.values import inference
from tests.kit.drills import drill
from tests.unit.gateway.fakes import FakeEngine
from tests.unit.gateway.world import World

BROKE = Transient("engine_failed", "KeyError: 7")
DEAD = Transient("engine_dead", "the engine is dead")
CANDIDATE, ACTIVE, BEHIND = (str(f.target(version)) for version in (8, 7, 6))
DRAWN = 40
BODY = {"model": f.MODEL, "messages": []}
TRIED = f.CanaryShare(served=f.served(9, pair_ratio=0.5), weight_ratio=1e-9)


def route(share=0.5, **changes):
    shadow = ShadowShare(served=f.served(8), share_ratio=share)
    about = {"canary": None, "active": f.served(7, pair_ratio=0.0), "previous": f.served(6), "shadow": shadow}
    return f.route(**about | {"quarantined": ()} | changes)


async def test_a_drawn_share_goes_to_the_candidate_and_no_caller_is_answered_by_it():
    world = World(route(), max_mirrors=100)
    answers = await world.ask(DRAWN)
    pairs = world.telemetry.pairs
    assert {answer.headers["x-slipway-version"] for answer in answers} == {ACTIVE}
    assert 10 < len(pairs) < 30
    assert world.sent_to(CANDIDATE) == len(pairs)
    assert {(str(pair.served.target), str(pair.mirrored.target), pair.shadow) for pair in pairs} == {
        (ACTIVE, CANDIDATE, True)
    }
    assert all(pair.mirrored.features is not None for pair in pairs)
    assert len(world.records) == DRAWN, "what the candidate is asked is no request of a caller"
    assert world.metric('slipway_gateway_shadowed_total{result="compared"}')[0].endswith(f" {len(pairs)}.0")
    assert not world.metric("slipway_gateway_mirrored_total{")


def left(*, trigger="errors", **about):
    return Suspended(served=f.served(8), cause="2 of 9 failed", since=f.START, trigger=trigger, **about)


async def test_a_suspended_version_is_asked_what_callers_asked_until_its_verdict():
    world = World(route(shadow=None, suspended=(left(),)), max_mirrors=100)
    await world.ask(DRAWN)
    asked = world.sent_to(CANDIDATE)
    assert 10 < asked < 30
    assert {(str(pair.mirrored.target), pair.shadow) for pair in world.telemetry.pairs} == {(CANDIDATE, True)}
    for entry in (left(verdict="cleared"), left(trigger="")):
        quiet = World(route(shadow=None, suspended=(entry,)), max_mirrors=100)
        await quiet.ask(DRAWN)
        assert quiet.sent_to(CANDIDATE) == 0


async def test_either_version_of_a_shadow_is_asked_first_as_often():
    world = World(route(1.0), max_mirrors=100)
    await world.ask(DRAWN)
    pairs = world.telemetry.pairs
    first = sum(pair.mirrored.sent_at < pair.served.sent_at for pair in pairs)
    assert 10 < first < len(pairs) - 10


async def test_a_candidate_is_asked_before_a_suspended_version():
    shadow = ShadowShare(served=f.served(9), share_ratio=0.5)
    world = World(route(shadow=shadow, suspended=(left(),)), max_mirrors=100)
    await world.ask(DRAWN)
    assert world.sent_to(CANDIDATE) == 0
    assert world.sent_to(str(f.target(9))) > 0


async def test_a_candidate_with_a_smaller_context_is_asked_what_is_sure_to_fit():
    small = ShadowShare(served=f.served(8, context_tokens=2_048), share_ratio=1.0)
    world = World(route(shadow=small, active=f.served(7, context_tokens=8_192, pair_ratio=0.0)), max_mirrors=100)
    await world.ask(5)
    assert world.sent_to(CANDIDATE) == 5
    await world.ask(5, max_tokens=1_500)
    await world.ask(5, messages=[{"role": "user", "content": "long " * 300}])
    assert world.sent_to(CANDIDATE) == 5


class Long(FakeEngine):
    """The active version needs 1,900 tokens for an answer; the candidate is cut off at 2,000."""

    async def send(self, endpoint, target, request):
        tokens, reason = (2_000, "length") if str(target) == CANDIDATE else (1_900, "stop")
        async for piece in super().send(endpoint, target, request):
            record = piece.record and {**piece.record, "output_tokens": tokens}
            if record and "finish_reasons" in record:
                record["finish_reasons"] = {"0.0": reason}
            yield replace(piece, record=record)


@pytest.mark.parametrize(
    ("needed", "finish", "bad"), [(1_500, "length", None), (1_500, "stop", False), (300, "length", True)]
)
def test_an_answer_that_only_a_smaller_context_cuts_off_speaks_against_no_candidate(needed, finish, bad):
    """No limit was declared; the active version needs more than half of the candidate's context, or less."""
    served = inference(error=None, drill=None, input_tokens=10, output_tokens=needed, finish_reason="stop")
    cut = inference(error=None, drill=None, input_tokens=10, output_tokens=2_038, finish_reason=finish)
    seen = routing.excuse_cut(served, cut, 2_048)
    assert observe(f.trigger(metric="cut_off_ratio", threshold=0.02), seen) is bad


def test_short_answers_that_are_long_only_together_excuse_no_candidate():
    """Ten answers of 150 tokens: none of them takes half of the candidate's context."""
    about = {"error": None, "drill": None, "input_tokens": 10, "forced_metrics": ("output_tokens",)}
    served = inference(**about, output_tokens=1_500, finish_reason="stop")
    cut = inference(**about, output_tokens=20_000, finish_reason="length")
    assert routing.excuse_cut(served, cut, 2_048) == cut


async def test_pairs_with_a_smaller_context_leave_out_what_it_cut_off():
    small = ShadowShare(served=f.served(8, context_tokens=2_048), share_ratio=1.0)
    for active_context, left_out in ((8_192, True), (2_048, False)):
        active = f.served(7, context_tokens=active_context, pair_ratio=0.0)
        world = World(route(shadow=small, active=active), engine=Long(), max_mirrors=100)
        await world.http.post("/v1/chat/completions", json=BODY | {"messages": [{"role": "user", "content": "a"}]})
        await world.ask(0)
        (pair,) = world.telemetry.pairs
        assert (pair.mirrored.finish_reason, "cut_off_ratio" in pair.mirrored.forced_metrics) == ("length", left_out)


async def test_no_caller_can_reach_a_candidate_in_its_shadow():
    world = World(route(), max_mirrors=100)
    answers = await world.ask(1, model=f"{f.MODEL}@v8")
    assert answers[0].status_code == 404
    assert choose_pinned(route(), 8) is None
    assert f"{f.MODEL}@v8" not in list_models(route())
    assert {choose_target(route(), f"id{number}", f.after(0.0)).served.target.version for number in range(500)} == {7}


async def test_a_candidate_that_fails_differs_and_callers_see_nothing():
    world = World(route(), engine=FakeEngine(poison={"hello": BROKE}, faulty={CANDIDATE}), max_mirrors=100)
    answers = await world.ask(DRAWN)
    assert {answer.status_code for answer in answers} == {200}
    pairs = world.telemetry.pairs
    assert {(pair.served.error, pair.mirrored.error, pair.mirrored.caused_by) for pair in pairs} == {
        (None, "engine_failed", "target")
    }


class Unanswering(FakeEngine):
    """The candidate answers nothing; nor does the active version from then on if the machine stands."""

    def __init__(self, *, stands=False):
        super().__init__()
        self.stands, self.met = stands, False

    async def send(self, endpoint, target, request):
        if str(target) == CANDIDATE or (self.stands and self.met):
            self.met = True
            self.calls.append((endpoint, str(target), ""))
            raise Transient("no_first_token", "silent for 60 s", silent_s=60.0)
        async for piece in super().send(endpoint, target, request):
            yield piece


async def test_a_candidate_that_answers_nothing_fails_what_the_active_version_answers_before_and_after():
    world = World(route(share=1.0), engine=Unanswering(), max_mirrors=100)
    await world.ask(4)
    assert world.sent_to(CANDIDATE) == 4
    assert {(pair.served.error, pair.mirrored.error, pair.mirrored.caused_by) for pair in world.telemetry.pairs} == {
        (None, "no_first_token", "target")
    }
    assert len(world.telemetry.pairs) == 4


async def test_a_machine_that_stands_speaks_against_no_candidate():
    world = World(route(share=1.0), engine=Unanswering(stands=True), max_mirrors=100)
    await world.ask(1)
    assert world.sent_to(CANDIDATE) == 1
    assert not world.telemetry.pairs
    assert world.metric('slipway_gateway_shadowed_total{result="unknown"}')[0].endswith(" 1.0")


class Dying(FakeEngine):
    """The candidate dies of what holds `kill` after a part of its answer, and is loaded again for the next request."""

    async def send(self, endpoint, target, request):
        lethal = b"kill" in request.body and str(target) == CANDIDATE
        async for piece in super().send(endpoint, target, request):
            yield piece
            if lethal:
                raise DEAD


async def test_a_death_of_the_candidate_counts_against_it_and_its_body_is_refused_to_no_caller():
    world = World(route(share=1.0), engine=Dying(), max_mirrors=100)
    await world.ask(1)
    answers = await world.ask(12, messages=[{"role": "user", "content": "kill"}])
    assert {answer.status_code for answer in answers} == {200}
    pair = world.telemetry.pairs[1]
    assert (pair.served.error, pair.mirrored.error, pair.mirrored.caused_by) == (None, "engine_dead", "target")
    assert pair.mirrored.engine_died == "meanwhile"
    assert world.metric('slipway_gateway_body_bans_total{change="refused"} 0.0')


class Dead(FakeEngine):
    """The candidate answers a little, dies, and stays dead."""

    async def send(self, endpoint, target, request):
        if str(target) != CANDIDATE:
            async for piece in super().send(endpoint, target, request):
                yield piece
            return
        if sum(name == CANDIDATE for _, name, _ in self.calls) > 1:
            self.calls.append((endpoint, str(target), ""))
            raise DEAD
        async for piece in super().send(endpoint, target, request):
            yield piece


async def test_one_death_counts_once_however_many_requests_meet_the_dead_engine():
    world = World(route(share=1.0), engine=Dead(), max_mirrors=100)
    for number in range(12):
        await world.ask(1, messages=[{"role": "user", "content": f"question {number}"}])
    assert world.sent_to(CANDIDATE) > 3
    assert sum(pair.mirrored.error == "engine_dead" for pair in world.telemetry.pairs) == 1


async def test_a_candidate_that_dies_of_each_request_before_it_answers_any_counts_each_time_it_may_have_been_loaded():
    apart = ShadowShare(served=f.served(8, endpoints=("b:1",)), share_ratio=1.0)
    engine = FakeEngine(poison={"hello": DEAD}, faulty={CANDIDATE})
    world = World(route(shadow=apart), engine=engine, max_mirrors=100)
    for number in range(3):
        await world.ask(4, messages=[{"role": "user", "content": f"hello {number}"}])
        await world.ask(4, messages=[{"role": "user", "content": f"hello again {number}"}])
        assert [pair.mirrored.error for pair in world.telemetry.pairs] == ["engine_dead"] * (number + 1)
        await world.clock.pause(STILL_DEAD_S)


async def test_a_candidate_that_died_twice_at_the_endpoint_of_what_serves_is_asked_no_more():
    """Its next death may end the active version there, and nothing is gained: it cannot pass any more."""
    engine = FakeEngine(poison={"hello": DEAD}, faulty={CANDIDATE})
    world = World(route(share=1.0), engine=engine, max_mirrors=100)
    for number in range(6):
        await world.ask(4, messages=[{"role": "user", "content": f"hello {number}"}])
        await world.clock.pause(STILL_DEAD_S)
    assert len(world.telemetry.pairs) == 2
    asked = world.sent_to(CANDIDATE)
    await world.ask(4)
    assert world.sent_to(CANDIDATE) == asked
    await world.clock.pause(600.0)
    await world.ask(4)
    assert world.sent_to(CANDIDATE) > asked


async def test_deaths_at_two_endpoints_of_a_candidate_count_once_each():
    engine = FakeEngine(poison={"hello": DEAD}, faulty={CANDIDATE})
    shadow = ShadowShare(served=f.served(8, endpoints=("b:1", "c:1")), share_ratio=1.0)
    world = World(route(shadow=shadow), engine=engine, max_mirrors=100)
    for number in range(20):
        await world.ask(1, messages=[{"role": "user", "content": f"hello {number}"}])
    met = {endpoint for endpoint, target, _ in engine.calls if target == CANDIDATE}
    assert len(world.telemetry.pairs) == len(met) == len({pair.mirrored.endpoint for pair in world.telemetry.pairs})


async def test_a_drill_on_the_candidate_counts_like_a_real_fault():
    world = World(route(share=1.0), max_mirrors=100)
    on_candidate = drill(fault={"error_ratio": 1.0}, environment="production", target=f.target(8), share_ratio=1.0)
    await world.drills.apply(f"production.{f.MODEL}", on_candidate, 1)
    answers = await world.ask(DRAWN)
    assert {answer.status_code for answer in answers} == {200}
    assert {pair.mirrored.error for pair in world.telemetry.pairs} == {"engine_failed"}
    assert all(pair.mirrored.drill and not pair.served.drill for pair in world.telemetry.pairs)


@pytest.mark.parametrize(
    "changes",
    [
        {"shadow": ShadowShare(served=f.served(8), share_ratio=0.0)},
        {"quarantined": (f.target(8),)},
        {"quarantined": (f.target(7),)},
        {"active": None, "previous": None, "history": ()},
    ],
)
def test_a_shadow_that_was_aborted_or_has_nothing_to_differ_from_is_none(changes):
    assert routing.find_shadow(route(**changes), f.target(7)) is None


def test_only_requests_of_the_active_version_are_drawn():
    assert routing.find_shadow(route(), f.target(6)) is None
    assert routing.find_shadow(route(), f.target(7)) == Choice(f.served(8), shadow=True)


@given(draw_id=st.text(min_size=1), share=st.floats(0.01, 1.0))
def test_a_larger_share_draws_what_a_smaller_one_draws(draw_id, share):
    parsed, choice = read_request("/v1/chat/completions", b"", BODY), Choice(f.served(7, pair_ratio=0.0))
    small, large = (
        routing.draw_pair(route(share=each), choice, parsed, draw_id, f.after(0.0)) for each in (share, 1.0)
    )
    assert large is not None
    assert large.shadow
    assert small in (None, large)


def test_the_pairs_of_what_serves_are_drawn_first_and_the_shadow_from_the_rest():
    parsed, routed = read_request("/v1/chat/completions", b"", BODY), route(canary=TRIED)
    drawn = [
        routing.draw_pair(routed, Choice(routed.active), parsed, f"id{number}", f.after(0.0)) for number in range(4000)
    ]
    shadows = sum(choice is not None and choice.shadow for choice in drawn)
    others = sum(choice is not None and not choice.shadow for choice in drawn)
    assert abs(others / 4000 - 0.5) < 0.04
    assert abs(shadows / 4000 - 0.25) < 0.04


class Silent(FakeEngine):
    """The candidate answers nothing, and takes the time of its requests."""

    async def send(self, endpoint, target, request):
        if str(target) == CANDIDATE:
            self.calls.append((endpoint, CANDIDATE, ""))
            await asyncio.Event().wait()
        async for piece in super().send(endpoint, target, request):
            yield piece


async def test_a_silent_candidate_leaves_half_of_the_turns_to_the_pairs_of_what_serves():
    world = World(route(share=1.0, canary=TRIED), engine=Silent(), max_mirrors=4)
    await world.ask(DRAWN)
    assert world.sent_to(CANDIDATE) == 2
    assert len([pair for pair in world.telemetry.pairs if not pair.shadow]) > 10

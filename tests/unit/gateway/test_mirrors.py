"""Pairs: a drawn request goes to the canary as well, and no caller notices."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain import routing
from services.gateway.domain.requests import read_request
from services.gateway.domain.routing import Choice, choose_target
from shared.errors import Permanent, Transient
from testbed import factories as f
from tests.unit.gateway.fakes import FakeEngine
from tests.unit.gateway.world import BEARER, OTHER, OTHER_KEY, OWN_KEYS, World, only_active

BROKE = Transient("engine_failed", "KeyError: 7")
DEAD = Transient("engine_dead", "the engine is dead")
NEW, OLD = str(f.target(7)), str(f.target(6))
DRAWN = 40


def often(version, **changes):
    return f.served(version, pair_ratio=0.5, **changes)


def canary(ratio=0.5):
    """Return a canary that no request goes to but the second side of a pair."""
    return f.CanaryShare(served=f.served(6, pair_ratio=ratio), weight_ratio=1e-9)


def route(**changes):
    about = {"canary": canary(), "active": f.served(7), "previous": f.served(5), "history": (), "quarantined": ()}
    return f.route(**about | changes)


async def test_a_drawn_share_goes_to_the_canary_and_its_answer_is_thrown_away():
    world = World(route(), max_mirrors=100)
    answers = await world.ask(DRAWN)
    pairs = world.telemetry.pairs
    assert {answer.headers["x-slipway-version"] for answer in answers} == {NEW}
    assert 10 < len(pairs) < 30
    assert world.sent_to(OLD) == len(pairs)
    assert {(str(pair.served.target), str(pair.mirrored.target)) for pair in pairs} == {(NEW, OLD)}
    assert all(pair.served.request_id == pair.mirrored.request_id for pair in pairs)
    assert all(pair.mirrored.ttft_ms is not None and pair.mirrored.features is not None for pair in pairs)
    assert len(world.records) == DRAWN, "a mirrored request is no request of a caller"
    assert world.metric("slipway_gateway_mirrored_total")[0].endswith(f" {len(pairs)}.0")


async def test_none_is_mirrored_at_a_share_of_zero_or_without_a_canary():
    for routed in (
        route(canary=canary(0.0)),
        route(canary=None),
        route(quarantined=(f.target(6),)),
    ):
        world = World(routed, max_mirrors=100)
        await world.ask(DRAWN)
        assert not world.telemetry.pairs
        assert world.sent_to(OLD) == 0


async def test_the_draw_is_made_before_the_outcome():
    """The same requests are drawn whether they fail or not."""
    drawn = []
    for poison in ({}, {"hello": BROKE}):
        world = World(route(), engine=FakeEngine(poison=poison, faulty={NEW}), max_mirrors=100)
        await world.ask(DRAWN)
        drawn.append([pair.served.request_id for pair in world.telemetry.pairs])
    assert drawn[0] == drawn[1]


async def test_what_only_one_side_fails_differs_and_what_both_fail_does_not():
    for faulty, ends in (
        ({NEW}, ("engine_failed", None)),
        ({OLD}, (None, "engine_failed")),
        (None, ("engine_failed",) * 2),
    ):
        world = World(route(), engine=FakeEngine(poison={"hello": BROKE}, faulty=faulty), max_mirrors=100)
        await world.ask(DRAWN)
        assert {(pair.served.error, pair.mirrored.error) for pair in world.telemetry.pairs} == {ends}
        assert {
            side.caused_by for pair in world.telemetry.pairs for side in (pair.served, pair.mirrored) if side.error
        } == {"target"}


async def test_a_request_under_which_the_engine_died_never_goes_to_the_canary():
    world = World(route(), engine=FakeEngine(poison={"hello": DEAD}, faulty={NEW}), max_mirrors=100)
    await world.ask(DRAWN)
    assert world.sent_to(OLD) == 0
    assert not world.telemetry.pairs


async def test_nor_if_its_endpoint_answered_it_after_the_death():
    class Reloaded(FakeEngine):
        """Dies of every other request, and answers it when it comes again."""

        async def send(self, endpoint, target, request):
            if int(request.request_id[2:]) // 2 % 2 and not request.cache_salt and request.request_id not in died:
                died.add(request.request_id)
                raise DEAD
            async for piece in super().send(endpoint, target, request):
                yield piece

    died = set()
    world = World(route(active=often(7, endpoints=("a:1",))), engine=Reloaded(), max_mirrors=100)
    answers = await world.ask(DRAWN)
    assert {answer.status_code for answer in answers} == {200}
    assert len(died) == DRAWN / 2
    paired = {pair.served.request_id for pair in world.telemetry.pairs}
    assert paired
    assert not paired & died


async def test_what_the_canary_refuses_or_cannot_answer_makes_no_pair():
    for error in (Permanent("bad_request", "too long"), Transient("endpoint_unreachable", "away")):
        world = World(route(), engine=FakeEngine(poison={"hello": error}, faulty={OLD}), max_mirrors=100)
        await world.ask(DRAWN)
        assert world.sent_to(OLD) > 0
        assert not world.telemetry.pairs


async def test_pinned_requests_and_those_with_tokens_or_state_are_not_mirrored():
    world = World(route(), max_mirrors=100)
    await world.ask(DRAWN, model=f"{f.MODEL}@v7")
    await world.ask(DRAWN, logit_bias={"7": -100})
    assert world.sent_to(OLD) == 0


async def test_a_canary_and_the_active_version_are_asked_each_others_requests():
    share = f.CanaryShare(served=often(8), weight_ratio=0.5)
    world = World(route(canary=share), max_mirrors=100)
    await world.ask(DRAWN)
    sides = {(pair.served.target.version, pair.mirrored.target.version) for pair in world.telemetry.pairs}
    assert sides == {(7, 8), (8, 7)}
    assert {(pair.served.canary, pair.mirrored.canary) for pair in world.telemetry.pairs} == {
        (False, True),
        (True, False),
    }


class Hanging(FakeEngine):
    """The canary takes requests and never answers."""

    async def send(self, endpoint, target, request):
        async for piece in super().send(endpoint, target, request):
            if str(target) == OLD:
                await asyncio.Event().wait()
            yield piece


async def settle():
    for _ in range(50):
        await asyncio.sleep(0)


async def test_drawn_requests_are_bounded_and_while_the_gateway_is_busy_none_is_drawn():
    world = World(route(), engine=Hanging(), max_mirrors=2, max_in_flight=8)
    await world.ask(DRAWN)
    assert world.sent_to(OLD) == 2, "no more than two at a time"
    shed = world.metric('slipway_gateway_mirrored_total{result="shed"}')
    assert 0.0 < float(shed[0].split()[-1]) < DRAWN / 2, "four are drawn, and two of them are asked"
    busy = World(route(), max_mirrors=100, max_in_flight=8)
    busy.engine.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(busy.chat()) for _ in range(7)]
    await settle()
    busy.engine.gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    await settle()
    assert {pair.served.request_id for pair in busy.telemetry.pairs} <= {"id0", "id2", "id4", "id6"}


class Held(FakeEngine):
    """The canary answers once it is let."""

    def __init__(self):
        super().__init__()
        self.calm = asyncio.Event()

    async def send(self, endpoint, target, request):
        if str(target) == OLD:
            await self.calm.wait()
        async for piece in super().send(endpoint, target, request):
            yield piece


@pytest.mark.parametrize("max_mirrors", [1, 4])
async def test_a_caller_whose_pairs_take_long_leaves_capacity_for_those_of_others(max_mirrors):
    world = World(route(), engine=Held(), max_mirrors=max_mirrors, keys=(*OWN_KEYS, OTHER_KEY))
    for headers in (BEARER, OTHER):
        await world.ask(60, headers=headers)
    world.engine.calm.set()
    for _ in range(20):
        await settle()
    counts = Counter(pair.served.caller for pair in world.telemetry.pairs)
    assert len(counts) == 2
    assert max(counts.values()) == 2 * max_mirrors, "half of the capacity is free when the second caller comes"
    assert min(counts.values()) == max_mirrors


async def test_a_burst_ends_no_pair():
    """A caller that has seen the answer must not choose, by its load, which pairs count."""

    world = World(route(), engine=Held(), max_mirrors=100, max_in_flight=8)
    await world.ask(20)
    world.engine.gate = asyncio.Event()
    burst = [asyncio.ensure_future(world.chat()) for _ in range(8)]
    await settle()
    world.engine.calm.set()
    world.engine.gate.set()
    await asyncio.gather(*burst)
    await settle()
    assert sum(int(pair.served.request_id[2:]) < 40 for pair in world.telemetry.pairs) > 5


async def test_while_requests_wait_in_an_engine_none_is_drawn():
    queued, after = (World(route(), engine=FakeEngine(record={"queue_ms": 200.0}), max_mirrors=100) for _ in range(2))
    await queued.ask(DRAWN)
    assert len(queued.telemetry.pairs) <= 1, "the first request shows the queue"
    await after.ask(1)
    await after.clock.pause(6.0)  # nothing else shows that the queue of the canary is empty
    after.engine.record = {"queue_ms": 0.2}
    await after.ask(DRAWN)
    assert len(after.telemetry.pairs) > 10


async def leave(world):
    """Ask for an answer, and go away when its first token has come."""
    world.engine.gate = asyncio.Event()
    caller = asyncio.ensure_future(world.chat(stream=True))
    await settle()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    world.engine.gate.set()
    await settle()


async def test_a_caller_that_leaves_changes_nothing_of_its_pairs():
    stayed, left = World(route(), max_mirrors=100), World(route(), max_mirrors=100)
    await stayed.ask(DRAWN, stream=True)
    for _ in range(DRAWN):
        await leave(left)
    assert {record.finish_reason for record in left.records} == {"cancelled"}
    drawn = [[pair.served.request_id for pair in world.telemetry.pairs] for world in (stayed, left)]
    assert drawn[0] == drawn[1] != []
    assert {pair.served.finish_reason for pair in left.telemetry.pairs} == {"length"}


async def test_both_sides_have_the_same_limits_and_no_cached_prefix():
    world = World(route(), max_mirrors=100)
    await world.ask(DRAWN)
    for pair in world.telemetry.pairs:
        caller, *again = [request for request in world.engine.requests if request.request_id == pair.served.request_id]
        assert (caller.deadline_s, caller.cache_salt) == (600.0, None)
        assert len(again) == 2
        assert {request.deadline_s for request in again} == {60.0}
        (salt,) = {request.cache_salt for request in again}
        assert salt.startswith("pair-")
        assert caller.request_id not in salt, "callers see another id than shares are drawn by"


@pytest.mark.parametrize("dying", [NEW, OLD])
async def test_an_engine_that_dies_on_either_side_makes_no_pair(dying):
    class Dying(FakeEngine):
        async def send(self, endpoint, target, request):
            if request.cache_salt and str(target) == dying:
                self.calls.append((endpoint, str(target), ""))
                raise DEAD
            async for piece in super().send(endpoint, target, request):
                yield piece

    world = World(route(active=often(7, endpoints=("a:1", "b:1"))), engine=Dying(), max_mirrors=100)
    await world.ask(DRAWN)
    assert not world.telemetry.pairs
    if dying == NEW:
        assert world.sent_to(OLD) == 0
    else:
        asked = [request.request_id for request in world.engine.requests if request.cache_salt]
        assert world.sent_to(OLD) == len(asked) > 0, "once for each, and not once more after the death"


async def test_a_mirrored_request_spends_nothing_of_its_callers_limits():
    plain, mirrored = World(only_active(), max_mirrors=0), World(route(), max_mirrors=100)
    for world in (plain, mirrored):
        await world.ask(DRAWN)
    assert plain.budgets.used("0123456789ab") == mirrored.budgets.used("0123456789ab") > 0


class RollingBack(FakeEngine):
    """The route changes while version 7 answers."""

    def __init__(self, gone, tables):
        super().__init__()
        self.gone, self.tables = gone, tables

    async def send(self, endpoint, target, request):
        await self.tables[0].apply(f.MODEL, self.gone, 99)
        async for piece in super().send(endpoint, target, request):
            yield piece


async def test_a_rollback_meanwhile_ends_the_pairs_of_the_version_that_went():
    gone = route(epoch=13, active=f.served(6), canary=None, quarantined=(f.target(7),))
    tables = []
    world = World(route(), engine=RollingBack(gone, tables), max_mirrors=100)
    tables.append(world.table)
    await world.ask(1)
    assert not world.telemetry.pairs


@given(draw_id=st.text(min_size=1), ratio=st.floats(0, 0.5))
def test_a_larger_share_draws_what_a_smaller_one_draws(draw_id, ratio):
    body = {"model": f.MODEL, "messages": []}
    parsed = read_request("/v1/chat/completions", b"", body)
    drawn = [
        routing.draw_pair(route(canary=canary(share)), Choice(f.served(7)), parsed, draw_id, f.after(0.0))
        for share in (ratio, 0.5)
    ]
    assert drawn[0] is None or drawn[1] is not None


@pytest.mark.parametrize("weight", [0.1, 0.5])
def test_the_draw_is_independent_of_the_side_of_a_canary(weight):
    routed = route(canary=f.CanaryShare(served=often(8), weight_ratio=weight))
    body = read_request("/v1/chat/completions", b"", {"model": f.MODEL, "messages": []})
    sides = {True: [0, 0], False: [0, 0]}
    for number in range(4000):
        choice = choose_target(routed, f"id{number}", f.after(0.0))
        counts = sides[choice.canary]
        counts[0] += 1
        counts[1] += routing.draw_pair(routed, choice, body, f"id{number}", f.after(0.0)) is not None
    for count, drawn in sides.values():
        assert abs(drawn / count - 0.5) < 0.08

"""Endpoints whose server stands still: found by its own silence, while another one answers, and used again after it."""

import asyncio

import pytest

from services.gateway.routing.balancer import Balancer
from services.gateway.routing.endpoints import POLL_S, UNUSED_S, Stalls
from shared.runtime.tasks import end_tasks
from testbed import factories as f
from tests.kit.virtual_time import VirtualClock, run_virtual, virtual_time
from tests.unit.gateway.fakes import FakeEngine
from tests.unit.gateway.world import World, only_active

A, B, C = "a:1", "b:1", "c:1"
LIMIT_S = 2.0
FOUND_S = 2 * (POLL_S + LIMIT_S)


class Attempt:
    """An attempt that notes whether it was told to leave."""

    def __init__(self, *endpoints):
        self.endpoints, self.left = endpoints, False

    def leave(self):
        self.left = True


class Fleet:
    """Stalls over an engine in memory, in virtual time."""

    def __init__(self, limit_s=LIMIT_S):
        self.engine, self.clock, self.changes, self.asked = FakeEngine(), VirtualClock(), [], []
        self.stalls = Stalls(self._ask, limit_s, monotonic=self.clock.monotonic, count=self._count)

    async def _ask(self, endpoint, limit_s):
        self.asked.append((endpoint, self.clock.monotonic()))
        return await self.engine.is_live(endpoint, limit_s)

    def _count(self, endpoint, change):
        self.changes.append((endpoint, change == "ejected"))


def in_virtual_time(story, **changes):
    async def run():
        fleet = Fleet(**changes)
        await story(fleet)
        await end_tasks(fleet.stalls._watches.values())

    run_virtual(run())


def test_one_that_answers_nothing_while_another_one_does_is_left_and_used_again_when_it_answers():
    async def story(fleet):
        waiting, other = Attempt(A, B), Attempt(A, B)
        fleet.stalls.begin(A, waiting)
        fleet.stalls.begin(B, other)
        await asyncio.sleep(5.0)
        assert fleet.changes == []
        fleet.engine.stalled.add(A)
        await asyncio.sleep(FOUND_S)
        assert (fleet.stalls.is_stalled(A), fleet.stalls.is_stalled(B)) == (True, False)
        assert (waiting.left, other.left) == (True, False)
        fleet.stalls.end(A, waiting)
        fleet.engine.stalled.clear()
        fleet.engine.gone.add(A)
        await asyncio.sleep(10.0)
        assert fleet.stalls.is_stalled(A), "it was ended, and does not answer"
        fleet.engine.gone.clear()
        await asyncio.sleep(LIMIT_S + POLL_S)
        assert not fleet.stalls.is_stalled(A)
        assert fleet.changes == [(A, True), (A, False)]

    in_virtual_time(story)


@pytest.mark.parametrize(("silent", "gone"), [({B, C}, set()), (set(), set()), (set(), {B})])
def test_where_no_other_one_answers_none_is_left(silent, gone):
    """The network may be away, or this process: nothing shows that it is the endpoint. A refused connection is no answer."""

    async def story(fleet):
        waiting = Attempt(A, *silent, *gone)
        fleet.engine.stalled |= {A, *silent}
        fleet.engine.gone |= gone
        fleet.stalls.begin(A, waiting)
        await asyncio.sleep(60.0)
        assert (fleet.changes, waiting.left) == ([], False)

    in_virtual_time(story)


def test_one_answer_between_two_silences_is_enough():
    async def story(fleet):
        fleet.stalls.begin(A, Attempt(A, B))
        for _ in range(20):
            fleet.engine.stalled ^= {A}
            await asyncio.sleep(LIMIT_S / 2 + POLL_S)
        assert fleet.changes == []

    in_virtual_time(story)


def test_nothing_is_asked_of_what_has_no_requests_and_a_stalled_one_that_none_could_use_is_forgotten():
    async def story(fleet):
        waiting = Attempt(A, B)
        fleet.stalls.begin(A, waiting)
        fleet.stalls.end(A, waiting)
        await asyncio.sleep(60.0)
        assert fleet.asked == []
        fleet.engine.stalled.add(A)
        fleet.stalls.begin(A, waiting)
        await asyncio.sleep(FOUND_S)
        fleet.stalls.end(A, waiting)
        assert fleet.changes == [(A, True)]
        await asyncio.sleep(UNUSED_S + 10.0)
        asked = len(fleet.asked)
        await asyncio.sleep(60.0)
        assert len(fleet.asked) == asked
        assert not fleet.stalls.is_stalled(A)

    in_virtual_time(story)


def test_an_attempt_that_begins_as_the_last_question_ends_is_watched():
    async def story(fleet):
        first, second = Attempt(A, B), Attempt(A, B)
        begun = []

        async def pause(seconds):
            await asyncio.sleep(seconds)
            if not begun:
                begun.append(asyncio.get_running_loop().call_soon(stalls.begin, A, second))

        stalls = Stalls(fleet.engine.is_live, LIMIT_S, monotonic=fleet.clock.monotonic, count=fleet._count, pause=pause)
        fleet.engine.stalled.add(A)
        stalls.begin(A, first)
        stalls.end(A, first)
        await asyncio.sleep(3 * FOUND_S)
        assert second.left
        await end_tasks(stalls._watches.values())

    in_virtual_time(story)


def test_without_a_limit_nothing_is_asked():
    async def story(fleet):
        fleet.engine.stalled.add(A)
        fleet.stalls.begin(A, Attempt(A, B))
        await asyncio.sleep(60.0)
        assert fleet.asked == []

    in_virtual_time(story, limit_s=0.0)


def balancer(*stalled):
    """Return a balancer that knows these endpoints as stalled."""
    fleet = Fleet()
    fleet.stalls._stalled = dict.fromkeys(stalled, 0.0)

    async def check(*_asked):
        return None

    return Balancer(fleet.clock, check, lambda *_: None, fleet.stalls)


async def test_a_stalled_endpoint_gets_no_request_unless_all_are():
    two = f.served(7, endpoints=(A, B))
    assert {balancer(A).choose(two, f"key-{number}", "chat") for number in range(20)} == {B}
    assert {balancer(A, B).choose(two, f"key-{number}", "chat") for number in range(20)} == {A, B}
    assert balancer(B).choose_other(two, "key", "chat", A) == B, "the only other one"
    assert not balancer(B).has_other(two, A)


async def test_a_request_without_a_token_at_a_stalled_endpoint_is_answered_by_the_other_one():
    world = World(only_active(endpoints=(A, B)), stall_s=0.2)
    world.engine.stalled.add(A)
    answers = await asyncio.wait_for(asyncio.gather(*(world.chat() for _ in range(6))), 20)
    assert {answer.status_code for answer in answers} == {200}
    assert {record.endpoint for record in world.records} == {B}
    moved = [line for line in world.metric("slipway_gateway_retries_total") if "endpoint_unreachable" in line]
    assert moved, "those that waited there were retried"
    before = len(world.engine.calls)
    assert (await world.chat()).status_code == 200
    assert [call[0] for call in world.engine.calls[before:]] == [B]
    assert world.metric('slipway_gateway_ejections_total{change="ejected",endpoint="a:1"}')[0].endswith(" 1.0")


@virtual_time
async def test_a_request_that_waits_for_its_first_token_at_a_server_that_answers_is_left_alone():
    """A long prompt is silence of the engine: callers cause it."""

    class Busy(FakeEngine):
        async def send(self, endpoint, target, request):
            await asyncio.sleep(1.0)
            async for piece in super().send(endpoint, target, request):
                yield piece

    world = World(only_active(endpoints=(A, B)), engine=Busy(), stall_s=0.1)
    assert (await world.chat()).status_code == 200
    assert len(world.engine.calls) == 1
    assert world.metric("slipway_gateway_ejections_total{") == []

"""How much work a body may cost: what has too many values is refused before it is parsed, whatever its shape."""

import asyncio
import json
import sys

import pytest
from prometheus_client import CollectorRegistry

from decisions.openai.json_values import MAX_OTHER_VALUES, MAX_VALUES
from services.gateway.domain import requests
from services.gateway.domain.errors import RequestRejected
from services.gateway.server.in_flight import MOST_WAITING, LargeBodies
from services.gateway.telemetry.metrics import GatewayMetrics
from tests.unit.gateway.fakes import StepClock
from tests.unit.gateway.world import World, only_active

SIZE = 4 * 2**20


def fill(chunk, start=b'{"a":[', end=b""):
    return start + chunk * ((SIZE - len(start) - len(end)) // len(chunk)) + end


def steps(raw):
    """Parse a body; return how many functions were called for it, and the refusal if there was one."""
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    refusal = None
    sys.setprofile(count)
    try:
        requests.parse_body(raw)
    except RequestRejected as rejected:
        refusal = rejected.problem.message
    finally:
        sys.setprofile(None)
    return calls, refusal


@pytest.mark.parametrize(
    "raw",
    [
        fill(b"{},"),
        fill(b"[],"),
        fill(b"1,"),
        fill(b"1.5,"),
        fill(b'"",'),
        fill(b'{"a":1},'),
        fill(b"[[],[]],"),
        fill(b"["),
        fill(b'"a":1,', b"{"),
        fill(b'{"a":', b""),
        fill(b"\n{ } ,"),
        fill(b"null,"),
        fill(b'"\\\\",{},'),
        fill(b'"\\"",{},'),
        fill(b"{},", b'{"a":"' + b"\\" * 65_530 + b'","b":['),
        fill(b"{},", b'{"a":"' + b"\\" * 65_531 + b'"","b":['),
        fill(b'{"a":1},', b"[", b"1]"),
        fill(b",", b"["),
    ],
)
def test_too_many_values_are_refused_before_the_body_is_parsed(raw):
    """Nothing of these would be JSON in the end, so the refusal shows that none was read."""
    calls, refusal = steps(raw)
    assert refusal.startswith("The body has more than ")
    assert calls < 2_000


@pytest.mark.parametrize(
    "text",
    [
        '",[{' * 100_000,
        "\\" * 65_535 + ",[{" * 100_000,
        ('\\"' + ',[{"' * 9) * 20_000,
        "é,[" * 200_000,
        '\\\\",' * 400_000,
    ],
)
def test_a_text_with_many_commas_passes_in_few_steps(text):
    for offset in range(3):
        raw = json.dumps({"prompt": "x" * offset + text}, ensure_ascii=False).encode()
        assert steps(raw)[1] is None
        assert steps(raw)[0] < 2_000


@pytest.mark.parametrize("number", [b"1", b"0.1", b"1e-1"])
def test_a_number_as_long_as_the_body_may_be_costs_no_steps(number):
    assert steps(fill(b"1", b'{"a":' + number, b"}"))[0] < 100


def named(count):
    """Return an object of so many values, besides itself."""
    return json.dumps({f"k{number}": 1 for number in range(count)}).encode()


@pytest.mark.parametrize(
    ("largest", "more"),
    [
        (named(MAX_OTHER_VALUES - 1), named(MAX_OTHER_VALUES)),
        (
            b'{"prompt":[' + b"50256, " * (MAX_VALUES - 3) + b"1]}",
            b'{"prompt":[' + b"50256, " * (MAX_VALUES - 2) + b"1]}",
        ),
    ],
)
def test_the_largest_body_that_is_taken_costs_a_bounded_number_of_steps(largest, more):
    assert steps(largest)[1] is None
    assert "send less in one request" in steps(more)[1]
    assert steps(largest)[0] < 4 * MAX_VALUES


@pytest.mark.parametrize("value", [b'{"a":1}', b'["a","b"]', b"true,false", b"[[1],[2]]", b'"1","2"'])
def test_a_body_of_small_values_is_refused_that_as_token_ids_is_not(value):
    for count, taken in ((MAX_OTHER_VALUES // 8, True), (MAX_OTHER_VALUES, False)):
        raw = b'{"metadata":[' + b",".join([value] * count) + b'],"prompt":[' + b",".join([b"7"] * count) + b"]}"
        assert (steps(raw)[1] is None) == taken


async def test_a_large_body_is_refused_and_served_as_a_small_one():
    world = World(only_active(), max_body_bytes=SIZE)
    answer = await world.http.post("/v1/completions", content=fill(b"{},", b'{"prompt":['))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    answer = await world.complete(prompt="a, " * 30_000)
    assert answer.status_code == 200


def large_bodies():
    return LargeBodies(StepClock(), GatewayMetrics(CollectorRegistry()))


async def test_callers_have_turns_however_many_bodies_one_sends():
    bodies, order = large_bodies(), []

    async def take(holder):
        async with bodies.turn(holder, 2**14):
            order.append(holder)
            await asyncio.sleep(0)

    await asyncio.gather(*map(take, ["many"] * 5 + ["one", "two", "one"]))
    assert order == ["many", "many", "one", "two", "many", "one", "many", "many"]
    await take("one")


async def test_a_body_whose_caller_leaves_passes_its_turn_on():
    bodies = large_bodies()
    async with bodies.turn("a", 2**14):
        waiting = [asyncio.ensure_future(bodies.turn("b", 2**14).__aenter__()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
    waiting[1].cancel()  # it was given the turn
    await asyncio.wait_for(waiting[2], 5)


async def test_a_caller_may_have_so_many_large_bodies_waiting_and_small_ones_wait_for_none():
    bodies = large_bodies()
    async with bodies.turn("a", 2**14):
        waiting = [asyncio.ensure_future(bodies.turn("a", 2**14).__aenter__()) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(RequestRejected) as rejected:
            await bodies.turn("a", 2**14).__aenter__()
        assert (rejected.value.problem.status, rejected.value.problem.code) == (429, "too_many_requests")
        async with bodies.turn("a", 2**13):
            assert not any(turn.done() for turn in waiting)
        for turn in waiting:
            turn.cancel()

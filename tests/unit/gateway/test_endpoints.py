"""A target at several endpoints: requests are balanced, an endpoint that fails is ejected, and costs no request."""

import asyncio
from collections import Counter

import pytest

from contracts.api_usage import EndpointUse
from services.gateway.domain.records import AnswerFailed
from services.gateway.routing.balancer import Balancer
from services.gateway.routing.endpoints import Stalls
from shared.errors import Permanent, Transient
from testbed import factories as f
from tests.unit.gateway.fakes import FakeEngine, StepClock
from tests.unit.gateway.world import HELLO, World, only_active

GONE = Transient("endpoint_unreachable", "connection refused")
DEAD = Transient("engine_dead", "the engine is dead")
BROKE = Transient("engine_failed", "KeyError: 7")
ABSENT = Transient("endpoint_unreachable", "Request for unknown model: 'bot.v7.int8' is not found", not_loaded=True)
A, B = "a:1", "b:1"
CHECK = "Hello"
"""The prompt of our own request, with which an endpoint is checked."""


class Endpoints(FakeEngine):
    """Endpoints that fail every request until they recover, and texts that only one of them fails."""

    def __init__(self, **engine):
        super().__init__(**engine)
        self.down = {}
        self.poison_at = {}

    def _find_error(self, endpoint, target, text):
        at = self.poison_at.get(endpoint, {})
        own = next((error for poison, error in at.items() if poison in text), None)
        return self.down.get(endpoint) or own or super()._find_error(endpoint, target, text)

    def asked(self, *, checks=False):
        """Return how often each endpoint was asked by callers, or by checks."""
        return Counter(endpoint for endpoint, _, text in self.calls if (text == CHECK) == checks)


def world(*endpoints, **changes):
    return World(only_active(endpoints=endpoints or (A, B)), engine=Endpoints(), **changes)


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def ask(made, count=12, **changes):
    """Ask one after the other, and let what runs beside end; return the statuses."""
    statuses = []
    for _ in range(count):
        statuses.append((await made.chat(**changes)).status_code)
        await settle()
    return statuses


def counted(made, name):
    lines = made.metric(f"slipway_gateway_{name}_total{{")
    return {
        line[line.index("{") : line.index("}") + 1]: float(line.split()[-1]) for line in lines if " 0.0" not in line
    }


def ejected(made):
    return {key.split('endpoint="')[1][:3] for key in counted(made, "ejections") if 'change="ejected"' in key}


async def test_the_endpoint_with_least_to_do_gets_a_request():
    made = world()
    made.engine.gate = asyncio.Event()
    long = asyncio.ensure_future(made.chat(max_tokens=1000))
    while not made.engine.calls:
        await asyncio.sleep(0)
    busy, free = (A, B) if made.engine.asked()[A] else (B, A)
    short = [asyncio.ensure_future(made.chat(max_tokens=10)) for _ in range(5)]
    while len(made.engine.calls) < 6:
        await asyncio.sleep(0)
    assert made.engine.asked() == {busy: 1, free: 5}
    made.engine.gate.set()
    await asyncio.gather(long, *short)


async def test_what_ends_is_outstanding_no_more_however_it_ends():
    made = world()
    made.engine.gate = asyncio.Event()
    left = asyncio.ensure_future(made.chat(max_tokens=2000))
    while not made.engine.calls:
        await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    made.engine.gate = None
    made.engine.poison = {"bad": Permanent("bad_request", "no"), "broken": BROKE}
    for text in ("bad", "broken", "well"):
        await ask(made, 4, messages=[{"role": "user", "content": text}])
    made.engine.break_after = (1, BROKE)
    await ask(made, 4, stream=True)
    made.engine.break_after = None
    made.engine.calls.clear()
    await ask(made, 60)
    assert min(made.engine.asked()[endpoint] for endpoint in (A, B)) > 15


async def test_a_request_at_a_dead_endpoint_is_answered_by_another_and_the_next_ones_go_there_at_once():
    made = world()
    made.engine.down[A] = GONE
    assert set(await ask(made, 20)) == {200}
    assert made.engine.asked() == {A: 1, B: 20}
    assert [record.error for record in made.records] == [None] * 20, "one record for each"
    assert {record.endpoint for record in made.records} == {B}
    assert counted(made, "retries") == {'{environment="production",reason="endpoint_unreachable"}': 1.0}
    assert counted(made, "ejections") == {'{change="ejected",endpoint="a:1"}': 1.0}
    assert made.engine.awaited == [], "the other one serves: nothing is waited for"


async def test_it_is_charged_once():
    plain, moved = world(), world()
    moved.engine.down = {A: GONE}
    for each in (plain, moved):
        await ask(each)
    assert plain.budgets.used("0123456789ab") == moved.budgets.used("0123456789ab") > 0


async def test_what_the_failed_attempt_took_is_no_latency_of_the_target():
    class Slow(Endpoints):
        async def send(self, endpoint, target, request):
            if endpoint == A:
                await made.clock.pause(5.0)
            async for piece in super().send(endpoint, target, request):
                yield piece

    made = World(only_active(endpoints=(A, B)), engine=Slow())
    made.engine.down = {A: GONE}
    await ask(made)
    assert made.engine.asked()[A] == 1
    assert all(record.ttft_ms < 1000 for record in made.records)


async def test_an_ejected_endpoint_comes_back_by_a_request_of_our_own():
    made = world()
    made.engine.down[A] = GONE
    await ask(made)
    await made.clock.pause(1.0)
    await ask(made, 3)
    assert made.engine.asked(checks=True) == {A: 1}
    await made.clock.pause(1.0)
    await ask(made, 3)
    assert made.engine.asked(checks=True) == {A: 1}, "the second check comes after twice the time"
    await made.clock.pause(1.0)
    made.engine.down.clear()
    await ask(made, 1)
    assert made.engine.asked(checks=True) == {A: 2}
    assert made.engine.asked()[A] == 1, "no request of a caller tried it"
    await ask(made, 60)
    assert made.engine.asked()[A] > 15
    key = '{{change="{}",endpoint="a:1"}}'.format
    assert counted(made, "ejections") == {key("ejected"): 1.0, key("returned"): 1.0}


async def test_a_check_that_is_silent_brings_nothing_back():
    made = world()
    made.engine.down[A] = GONE
    await ask(made)
    made.engine.down[A] = Transient("no_first_token", "silent", silent_s=10.0)
    await made.clock.pause(1.0)
    await ask(made, 20)
    assert made.engine.asked(checks=True) == {A: 1}
    assert made.engine.asked()[A] == 1


@pytest.mark.parametrize("kind", ["embeddings", "completion", "tokenize"])
async def test_what_an_engine_refuses_it_has_read(kind):
    made = world()
    made.engine.poison = {CHECK: Permanent("bad_request", "this model has no such task")}
    assert await made.checks.serves(f.served(7), A, kind)


async def test_a_stream_that_breaks_ejects_its_endpoint_and_is_not_begun_again():
    made = world()
    made.engine.break_after = (2, GONE)
    answer = await made.chat(stream=True, max_tokens=5)
    assert "endpoint_unreachable" in answer.text
    assert len(made.engine.calls) == 1
    broken = made.engine.calls[0][0]
    made.engine.break_after = None
    await ask(made)
    assert made.engine.asked()[broken] == 1


async def test_if_all_are_ejected_requests_go_on_and_who_answers_returns():
    made = world()
    made.engine.down = {A: GONE, B: GONE}
    assert set(await ask(made, 3)) == {502}
    assert ejected(made) == {A, B}
    assert made.engine.awaited != [], "the second attempt waits for an endpoint that is ejected, as with one endpoint"
    made.engine.down.clear()
    made.engine.calls.clear()
    assert set(await ask(made, 40)) == {200}
    assert made.engine.asked(checks=True) == Counter(), "the answer itself shows that it serves"
    assert any('change="returned"' in key for key in counted(made, "ejections"))


async def test_with_one_endpoint_nothing_is_ejected_and_the_second_attempt_waits_for_it():
    made = world(A)
    made.engine.down[A] = GONE
    assert set(await ask(made, 3)) == {502}
    assert (made.engine.asked(), made.engine.awaited) == ({A: 6}, [A] * 3)
    assert counted(made, "ejections") == {}
    twice = world(A, A)
    twice.engine.down[A] = GONE
    assert set(await ask(twice, 3)) == {502}
    assert twice.engine.asked() == {A: 6}


CALLERS_ERRORS = [
    Permanent("bad_request", "too long"),
    Permanent("schemas_busy", "too much at once"),
    Permanent("schema_too_costly", "too much"),
    Permanent("template_refused", "raise_exception"),
    Transient("template_failed", "1 / 0"),
    BROKE,
    Transient("no_first_token", "silent for 60 s", silent_s=60.0),
    Transient("engine_dead", "silent for 20 s", silent_s=20.0),
    Transient("deadline_exceeded", "over 600 s"),
]


@pytest.mark.parametrize("error", CALLERS_ERRORS, ids=lambda error: f"{error.code}-{bool(error.details)}")
@pytest.mark.parametrize("begun", [False, True])
async def test_no_error_that_a_request_can_cause_ejects_an_endpoint(error, begun):
    made = world()
    if begun:
        made.engine.break_after = (2, error)
    else:
        made.engine.poison = {"hello there": error}
    for _ in range(10):
        await ask(made, 3, stream=True, max_tokens=5)
        await made.clock.pause(1.0)
    assert ejected(made) == set()


async def test_an_answer_that_breaks_off_without_a_report_ejects_nothing():
    class Cut(Endpoints):
        async def send(self, endpoint, target, request):
            async for piece in super().send(endpoint, target, request):
                yield piece
                if b"hello there" in request.body:
                    return

    made = World(only_active(endpoints=(A, B)), engine=Cut())
    await ask(made, 10, stream=True)
    assert {record.error for record in made.records} == {"engine_dead"}
    assert ejected(made) == set()


async def test_callers_that_hang_up_eject_nothing():
    made = world()
    made.engine.gate = asyncio.Event()
    for number in range(1, 7):
        caller = asyncio.ensure_future(made.chat(stream=True))
        while len(made.engine.calls) < number:
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    assert ejected(made) == set()


async def test_an_endpoint_that_fails_everything_is_ejected_by_a_check_and_attracts_no_requests():
    made = world()
    made.engine.down[A] = BROKE
    assert set(await ask(made, 20)) == {200}
    assert made.engine.asked()[A] == 1, "it would have the least outstanding at any time"
    assert made.engine.asked(checks=True) == {A: 1}


async def test_what_one_endpoint_fails_goes_to_another_that_has_more_to_do():
    made = world()
    made.engine.gate = asyncio.Event()
    long = asyncio.ensure_future(made.chat(max_tokens=2000))
    while not made.engine.calls:
        await asyncio.sleep(0)
    (busy,) = made.engine.asked()
    made.engine.poison_at = {A if busy == B else B: {"odd": BROKE}}
    odd = asyncio.ensure_future(made.chat(messages=[{"role": "user", "content": "odd"}], max_tokens=1))
    assert (await odd).status_code == 200
    made.engine.gate.set()
    await long


async def test_an_endpoint_that_is_silent_when_it_is_checked_may_only_have_too_much_to_do():
    silent = Transient("no_first_token", "silent", silent_s=60.0)
    made = world()
    made.engine.down = {A: silent, B: silent}
    for _ in range(6):
        await ask(made, 2)
        await made.clock.pause(1.0)
    assert set(made.engine.asked(checks=True)) == {A, B}
    assert ejected(made) == set()


async def test_what_requests_fail_causes_one_check_a_second_at_most():
    made = world()
    made.engine.poison = {"hello there": BROKE}
    began_s = made.clock.monotonic()
    for _ in range(30):
        await made.chat(model=f"{f.MODEL}@v7")
    seconds = made.clock.monotonic() - began_s
    checks = [request for request in made.engine.requests if b'"prompt": "Hello"' in request.body]
    assert 1 <= len(checks) <= 2 * (1 + int(seconds)), "each of two endpoints"


async def test_a_request_under_which_an_engine_died_goes_to_no_other_endpoint():
    made = world()
    made.engine.poison = {"kill": DEAD}
    answer = await made.chat(messages=[{"role": "user", "content": "kill"}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_dead")
    assert len(made.engine.calls) == 1
    assert [(record.error, record.caused_by) for record in made.records] == [("engine_dead", "target")]
    assert ejected(made) == {made.engine.calls[0][0]}, "its engine is dead"
    assert set(await ask(made, 5)) == {200}


@pytest.mark.parametrize("code", ["no_first_token", "deadline_exceeded"])
async def test_timeouts_are_not_tried_elsewhere(code):
    made = world()
    made.engine.poison = {"hello there": Transient(code, "silent", silent_s=60.0)}
    assert (await made.chat()).status_code == 504
    assert made.engine.asked().total() == 1


async def test_targets_of_one_endpoint_are_ejected_one_by_one():
    """An engine that died, or is not loaded, says nothing of the others at its endpoint."""
    both = World(
        f.route(canary=None, active=f.served(7, endpoints=(A, B)), previous=f.served(6, endpoints=(A, B))),
        engine=Endpoints(faulty={str(f.target(7))}),
    )
    both.engine.poison = {"kill": DEAD}
    await both.chat(messages=[{"role": "user", "content": "kill"}])
    both.engine.calls.clear()
    await ask(both, 20, model=f"{f.MODEL}@v6")
    assert len(both.engine.asked()) == 2


def no_stalls():
    """Return what never takes an endpoint for stalled."""
    return Stalls(FakeEngine().is_live, 0.0, monotonic=StepClock().monotonic, count=lambda *_: None)


def ended(made):
    """Return how requests ended since the last look, and through whom."""
    seen = {(record.error, record.caused_by) for record in made.records}
    made.records.clear()
    return seen


@pytest.mark.parametrize("endpoints", [(A,), (A, B), (A, B, "c:1")])
async def test_a_target_that_no_endpoint_has_loaded_for_ten_seconds_fails_by_itself(endpoints):
    made = world(*endpoints)
    made.engine.down = dict.fromkeys(endpoints, ABSENT)
    await ask(made)
    assert ended(made) == {("endpoint_unreachable", "infrastructure")}, "it may be loaded by now"
    for _ in range(10):
        await made.clock.pause(1.0)
        await ask(made)
    made.records.clear()
    assert set(await ask(made)) == {502}
    assert ended(made) == {("not_loaded", "target")}
    made.engine.down = {}
    await ask(made, 1)
    assert ended(made) <= {(None, None), ("not_loaded", "target")}
    await made.clock.pause(31.0)
    await ask(made)
    made.engine.down = dict.fromkeys(endpoints, ABSENT)
    made.records.clear()
    await ask(made)
    assert ended(made) == {("endpoint_unreachable", "infrastructure")}, "it was loaded a moment ago"


async def test_one_endpoint_that_has_not_loaded_a_target_is_nothing_of_the_target_while_another_serves():
    made = world()
    made.engine.down = {A: ABSENT}
    for _ in range(12):
        assert set(await ask(made)) == {200}
        await made.clock.pause(5.0)
    assert ended(made) == {(None, None)}
    made.engine.down = {A: ABSENT, B: GONE}
    await ask(made)
    assert {caused_by for _, caused_by in ended(made)} == {"infrastructure"}, "the other one was there a moment ago"


async def test_servers_that_do_not_answer_are_nothing_of_a_target_however_long():
    made = world()
    made.engine.down = {A: GONE, B: GONE}
    for _ in range(12):
        await ask(made)
        await made.clock.pause(5.0)
    assert ended(made) == {("endpoint_unreachable", "infrastructure")}
    made.engine.down = {A: GONE, B: ABSENT}
    for _ in range(21):
        await ask(made, 4)
        await made.clock.pause(29.0)
    assert ended(made) == {("endpoint_unreachable", "infrastructure")}, "it was started anew, and loads what it had"
    await made.clock.pause(10.0)
    await ask(made)
    assert ended(made) == {("not_loaded", "target")}, "what serves at a server that answers is loaded there"


async def test_a_server_that_was_started_anew_loads_its_only_replica_for_as_long_as_it_needs():
    made = world(A)
    for down, seconds in ((GONE, 5), (ABSENT, 60)):
        made.engine.down = {A: down}
        for _ in range(seconds):
            await ask(made, 1)
            await made.clock.pause(1.0)
    assert ended(made) == {("endpoint_unreachable", "infrastructure")}
    made.engine.down = {}
    await ask(made, 1)
    made.engine.down = {A: ABSENT}
    await made.clock.pause(61.0)
    for _ in range(12):
        made.records.clear()
        await ask(made, 1)
        await made.clock.pause(1.0)
    assert ended(made) == {("not_loaded", "target")}, "its server was there"


async def test_what_is_given_up_at_a_server_that_was_started_anew_has_been_loaded_nowhere_for_ten_seconds():
    made = world(A)
    for down in (GONE, ABSENT):
        made.engine.down = {A: down}
        await ask(made, 1)
    for endpoint, version in ((B, 7), (A, 6)):
        made.balancer.note_given_up(endpoint, f.target(version))
    assert made.balancer.awaits_loads
    for given_up, seconds in ((False, 20), (True, 9)):
        if given_up:
            made.balancer.note_given_up(A, f.target(7))
        for _ in range(seconds):
            await ask(made, 1)
            await made.clock.pause(1.0)
    assert ended(made) == {("endpoint_unreachable", "infrastructure")}
    assert not made.balancer.awaits_loads
    await made.clock.pause(1.0)
    made.records.clear()
    await ask(made, 1)
    assert ended(made) == {("not_loaded", "target")}


@pytest.mark.parametrize(("steady_s", "caused_by"), [(20, "target"), (80, "infrastructure")])
async def test_a_server_that_dies_again_and_again_has_its_time_to_load_once(steady_s, caused_by):
    """The time is a grace of ten minutes; it begins anew once the target has answered for a minute."""
    made = world(A)
    for _ in range(6):
        for down, seconds in ((GONE, 5), (ABSENT, 120), (None, steady_s)):
            made.engine.down = {A: down} if down else {}
            for _ in range(seconds // 5):
                made.records.clear()
                await ask(made, 1)
                await made.clock.pause(5.0)
            if down is ABSENT:
                last = ended(made)
    assert {caused_by for _, caused_by in last} == {caused_by}


async def test_what_nobody_asked_for_during_a_minute_may_have_been_loaded_meanwhile():
    made = world(A)
    made.engine.down = {A: ABSENT}
    await ask(made, 1)
    await made.clock.pause(60.0)
    await ask(made, 1)
    assert ended(made) == {("endpoint_unreachable", "infrastructure")}


class Held:
    """A balancer whose checks succeed when the gate opens."""

    def __init__(self):
        self.asked, self.gate, self.clock = [], asyncio.Event(), StepClock()
        self.table = Balancer(self.clock, self._check, lambda *_: None, no_stalls())

    async def _check(self, _served, endpoint, _kind):
        self.asked.append(endpoint)
        await self.gate.wait()
        return True

    def fail(self, code):
        self.table.note_failure(TWO, A, "chat", AnswerFailed(code, "x"))


TWO = f.served(7, endpoints=(A, B))


async def test_a_check_that_began_before_an_ejection_does_not_end_it():
    held = Held()
    held.fail("engine_failed")
    await settle()
    held.fail("endpoint_unreachable")
    held.gate.set()
    await settle()
    assert held.asked == [A]
    assert held.table.is_ejected(TWO, A)


async def test_an_endpoint_is_checked_once_at_a_time_and_a_check_ends_no_later_ejection():
    held = Held()
    held.fail("endpoint_unreachable")
    first = held.table._ejections[A, str(TWO.target)]
    await held.clock.pause(1.0)
    for number in range(5):
        assert held.table.choose(TWO, f"id{number}", "chat") == B
        await settle()
    assert held.asked == [A]
    held.table.note_token(TWO, A, first)
    assert not held.table.is_ejected(TWO, A)
    held.fail("endpoint_unreachable")
    held.gate.set()
    await settle()
    assert held.table.is_ejected(TWO, A)


assert CHECK not in str(HELLO), "what callers ask here is told apart from checks"


async def test_a_report_has_what_is_outstanding_at_each_endpoint_and_which_are_ejected():
    made = world(A, B)
    assert made.endpoints() == {}
    made.engine.down = {B: GONE}
    assert set(await ask(made)) == {200}
    assert made.endpoints() == {B: EndpointUse(ejected=1)}
    made.engine.down = {}
    gate = made.engine.gate = asyncio.Event()
    asking = asyncio.ensure_future(made.chat(max_tokens=50))
    await settle()
    assert made.endpoints()[A].outstanding_tokens >= 40
    gate.set()
    await asking
    assert A not in made.endpoints()

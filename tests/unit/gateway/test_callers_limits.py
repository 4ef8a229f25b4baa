"""What a caller does with its connection: it reads slowly, sends slowly, or goes away. It harms itself only."""

import asyncio
import json
from dataclasses import replace

import pytest

from decisions.evidence.attribution import is_excused
from services.gateway.server.http import Backlog, SlowReader, limited_writes
from tests.kit.virtual_time import virtual_time
from tests.unit.gateway.fakes import FakeEngine, Form, StepClock
from tests.unit.gateway.world import BEARER, HELLO, OTHER, OTHER_KEY, OWN_KEYS, World, only_active

CHAT = "/v1/chat/completions"


class Caller:
    """A connection of its own to the application; `reads` opens when the caller takes what is written to it."""

    def __init__(self, world, body=None, *, reads=True, key=BEARER) -> None:
        self.headers = [(name.encode(), value.encode()) for name, value in key.items()]
        self.app = world.http._transport.app
        self.sent = []
        self.reads = asyncio.Event()
        if reads:
            self.reads.set()
        self.incoming = asyncio.Queue()
        if body is not None:
            self.send_body(json.dumps(body).encode())
        self.task = asyncio.ensure_future(self.app(self.scope(), self.incoming.get, self.send))

    def scope(self):
        return {
            "type": "http",
            "method": "POST",
            "path": CHAT,
            "raw_path": CHAT.encode(),
            "query_string": b"",
            "headers": self.headers,
            "http_version": "1.1",
            "scheme": "http",
            "server": ("gateway", 80),
            "client": ("caller", 1),
            "root_path": "",
        }

    def send_body(self, data, *, more=False):
        self.incoming.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def leave(self):
        self.incoming.put_nowait({"type": "http.disconnect"})

    async def send(self, message):
        await self.reads.wait()
        self.sent.append(message)

    async def status(self):
        await self.task
        return self.sent[0]["status"]


class Paced(FakeEngine):
    """Yields its pieces at once, one per second of the clock; `gave` is set after the last."""

    def __init__(self, clock, pieces) -> None:
        super().__init__()
        self.clock, self.pieces, self.gave = clock, pieces, asyncio.Event()

    async def send(self, endpoint, target, request):
        self.calls.append((endpoint, str(target), ""))
        form, done = Form(request, target, json.loads(request.body)), False
        try:
            for index in range(self.pieces):
                await self.clock.pause(1.0)
                done = index == self.pieces - 1
                record = {"prompt_tokens": 3, "output_tokens": index + 1, "texts": [["0.0", "word "]]}
                yield form.piece("word ", record | ({"finish_reasons": {"0.0": "stop"}} if done else {}))
                await asyncio.sleep(0)
            yield form.last({"prompt_tokens": 3, "output_tokens": self.pieces, "finish_reasons": {"0.0": "stop"}})
            self.gave.set()
        finally:
            if not done:
                self.aborted.append(request.request_id)


def paced(pieces, **limits):
    clock = StepClock()
    return World(only_active(), engine=Paced(clock, pieces), clock=clock, **limits)


@pytest.mark.parametrize("stream", [True, False])
async def test_times_are_those_of_the_engine_however_slowly_the_caller_reads(stream):
    world = paced(5)
    caller = Caller(world, {**HELLO, "stream": stream, "max_tokens": 50}, reads=False)
    await asyncio.wait_for(world.engine.gave.wait(), 10)
    await world.clock.pause(3600.0)  # an hour in which nothing is read
    caller.reads.set()
    assert await caller.status() == 200
    (record,) = world.records
    assert record.ttft_ms == pytest.approx(1000, abs=100)
    assert record.itl_ms.max == pytest.approx(1000, abs=100)
    assert record.e2e_ms == pytest.approx(5000, abs=100)
    assert (record.error, record.caused_by, record.features.empty) == (None, None, False)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_answer_of_a_caller_that_does_not_read_is_given_up_and_its_place_is_free(stream):
    world = paced(5, write_s=0.05, max_in_flight=1)
    caller = Caller(world, {**HELLO, "stream": stream, "max_tokens": 50}, reads=False)
    await asyncio.wait_for(caller.task, 10)
    (record,) = world.records
    assert (record.finish_reason, record.error, record.caused_by) == ("cancelled", None, "caller")
    assert is_excused(record)
    assert record.e2e_ms <= 6000
    assert world.metric("slipway_gateway_slow_readers_total") == ["slipway_gateway_slow_readers_total 1.0"]
    assert await Caller(world, HELLO).status() == 200, "its place is free"


async def test_an_answer_that_waits_for_a_slow_reader_is_bounded_and_aborted_in_the_engine():
    world = paced(100_000, write_s=0.2, max_lag_bytes=10_000)
    caller = Caller(world, {**HELLO, "stream": True, "max_tokens": 2000}, reads=False)
    async with asyncio.timeout(10):
        await caller.task
    assert world.engine.aborted
    (record,) = world.records
    assert (record.finish_reason, record.caused_by) == ("cancelled", "caller")
    assert record.output_tokens < 300, "the engine does not generate what is not read"


async def test_a_backlog_raises_what_the_engine_did_after_what_came_before():
    backlog = Backlog(1000)
    backlog.put(b"a")
    backlog.end(ValueError("broke"))
    read = backlog.read()
    assert await anext(read) == b"a"
    with pytest.raises(ValueError, match="broke"):
        await anext(read)


async def test_a_backlog_takes_as_much_again_when_it_was_read():
    backlog = Backlog(200)
    read = backlog.read()
    for _ in range(100):
        backlog.put(b"x" * 100)
        assert await anext(read) == b"x" * 100
    backlog.put(b"x" * 100)
    with pytest.raises(SlowReader):
        backlog.put(b"x" * 100)


async def test_a_caller_that_goes_away_while_a_failure_is_judged_leaves_the_failure_to_the_target():
    from shared.errors import Transient

    world = World(only_active(), engine=FakeEngine(poison={"there": Transient("engine_dead", "dead")}))
    caller = Caller(world, HELLO, reads=False)
    async with asyncio.timeout(10):
        while len(world.engine.calls) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.leave()
        await caller.task
    assert [(record.error, record.caused_by, record.finish_reason) for record in world.records] == [
        ("engine_dead", "target", None)
    ]


async def test_slow_bodies_take_no_place():
    world = World(only_active(), max_in_flight=1)
    slow = Caller(world)
    slow.send_body(b'{"mod', more=True)
    await asyncio.sleep(0)
    assert (await world.chat()).status_code == 200
    slow.leave()
    await slow.task
    assert slow.sent == []


async def test_a_body_has_its_time():
    world = World(only_active(), body_s=0.05)
    slow = Caller(world)
    slow.send_body(b'{"mod', more=True)
    assert await asyncio.wait_for(slow.status(), 10) == 408
    error = json.loads(slow.sent[1]["body"])["error"]
    assert error["code"] == "request_too_slow"
    assert "5 bytes" in error["message"]
    assert (b"connection", b"close") in slow.sent[0]["headers"]
    assert world.records == []


async def test_bodies_that_are_too_large_together_are_refused_and_leave_room_when_they_end():
    world = World(only_active(), keys=(*OWN_KEYS, OTHER_KEY), body_s=3600, max_bodies_bytes=2270)
    slow = [Caller(world) for _ in range(2)]
    for caller in slow:
        caller.send_body(b" " * 990, more=True)
        await asyncio.sleep(0.01)
    assert await Caller(world, HELLO).status() == 429
    assert await Caller(world, HELLO, key=OTHER).status() == 200, "an eighth is kept for others"
    large = Caller(world, key=OTHER)
    large.send_body(b" " * 300)
    assert await large.status() == 429
    for caller in slow:
        caller.leave()
        await caller.task
    assert await Caller(world, HELLO).status() == 200


async def test_a_caller_that_goes_away_while_the_fallback_is_asked_does_not_hide_the_failure():
    from shared.errors import Transient
    from testbed import factories as f

    gate = asyncio.Event()

    class Slow(FakeEngine):
        async def send(self, endpoint, target, request):
            if str(target) != str(f.target(7)):
                await gate.wait()
            async for piece in super().send(endpoint, target, request):
                yield piece

    engine = Slow(poison={"there": Transient("engine_failed", "KeyError")}, faulty={str(f.target(7))})
    world = World(only_active(), engine=engine)
    caller = Caller(world, HELLO)
    async with asyncio.timeout(10):
        while len(world.engine.calls) < 2:  # two attempts
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.leave()
        await caller.task
        gate.set()
        while not world.records:
            await asyncio.sleep(0)
    assert [(record.error, record.caused_by) for record in world.records] == [("engine_failed", "target")]


async def test_a_caller_that_leaves_most_of_a_whole_answer_unread_is_dropped():
    class Long(FakeEngine):
        async def send(self, endpoint, target, request):
            async for piece in super().send(endpoint, target, request):
                yield piece if piece.status is None else replace(piece, body=b"x" * 500_000)

    class ReadsTheFirstSlices(Caller):
        async def send(self, message):
            await super().send(message)
            if len(self.sent) > 3:
                await asyncio.Event().wait()

    world = World(only_active(), engine=Long(), write_s=0.1)
    caller = ReadsTheFirstSlices(world, HELLO)
    await asyncio.wait_for(caller.task, 10)
    assert (world.records[-1].finish_reason, world.records[-1].caused_by) == ("cancelled", "caller")


class HangsUp(Caller):
    """A caller that closes its connection as soon as it has read `[DONE]`, as SDKs do."""

    async def send(self, message):
        await super().send(message)
        if message.get("body", b"").endswith(b"data: [DONE]\n\n"):
            self.leave()
            for _ in range(20):
                await asyncio.sleep(0)


async def test_a_caller_that_hangs_up_after_the_end_of_its_stream_has_a_complete_answer():
    world = World(only_active())
    await HangsUp(world, {**HELLO, "stream": True}).task
    (record,) = world.records
    assert (record.finish_reason, record.caused_by) == ("length", None)


class Writes:
    """A server that takes each message after a while, or never."""

    def __init__(self, *takes_s) -> None:
        self.takes_s = list(takes_s)
        self.messages = []

    async def send(self, message) -> None:
        await asyncio.sleep(self.takes_s.pop(0))
        self.messages.append(message)


@pytest.mark.parametrize("before", [0, 3])
@virtual_time
async def test_a_write_that_takes_too_long_ends_in_time(before):
    writes = Writes(*[0.1] * before, 60)
    loop = asyncio.get_running_loop()
    with limited_writes(writes.send, 0.25) as send:
        for _ in range(before):
            await send({})
        began_s = loop.time()
        with pytest.raises(SlowReader):
            await send({})
        assert loop.time() - began_s == pytest.approx(0.25)
    assert not asyncio.current_task().cancelling()


@virtual_time
async def test_a_caller_that_goes_away_during_a_write_is_no_slow_reader():
    with limited_writes(Writes(60).send, 0.5) as send:
        writing = asyncio.ensure_future(send({}))
        await asyncio.sleep(0.01)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing

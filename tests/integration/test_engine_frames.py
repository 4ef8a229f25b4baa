"""Frames of answers, from a server that sends them out of order, wrongly, or not at all: each answer is whole or fails."""

import asyncio
import contextlib
import itertools
import json
import re
import struct
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from shared.errors import SlipwayError
from shared.serving import engine_streams
from shared.serving.engine_streams import WAITING_PIECES, close_streams, count_streams, find_stream, stream_api
from shared.serving.inference import Deadlines
from shared.serving.openai_stream import ApiRequest
from shared.serving.tensors import encode_text
from tests.kit.triton_servicer import serve

NAME = "bot.v1.bf16"
REQUEST = ApiRequest("POST", "/v1/completions", b"{}", 60.0)
HEADERS = [["content-type", "text/event-stream"]]


def part(request_id, number, body=b"", **fields):
    """Return a part of an answer: what a frame says of it, and its bytes."""
    first = {"status": 200, "headers": HEADERS} if number == 0 else {}
    return {"id": request_id, "number": number, "record": {"output_tokens": number + 1}, **first, **fields}, body


def element(body):
    return struct.pack("<I", len(body)) + body


def tensors(request_id, outputs):
    response = service_pb2.ModelInferResponse(model_name=NAME, id=request_id)
    for name, raw in outputs.items():
        response.outputs.add(name=name, datatype="BYTES", shape=[1])
        response.raw_output_contents.append(raw)
    return service_pb2.ModelStreamInferResponse(infer_response=response)


def frame(*parts, rows=None, bodies=None):
    rows = [row for row, _ in parts] if rows is None else rows
    bodies = b"".join(element(body) for _, body in parts) if bodies is None else bodies
    return tensors("any", {"http_record": encode_text(json.dumps(rows)), "http_body": bodies})


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers when so many requests have come on a stream with what a function makes of their identifiers."""

    def __init__(self) -> None:
        self.requests = 1
        self.make_responses = None
        self.pause_s = 0.0
        self.hangs = False
        self.open = 0
        self.aborted: list[str] = []
        self.heads: list[dict] = []

    async def ModelStreamInfer(self, requests, context):  # noqa: N802, ARG002 - Triton's name
        self.open += 1
        try:
            async for response in self._answer(requests):
                yield response
            if self.hangs:
                await asyncio.Event().wait()
        finally:
            self.open -= 1

    async def _answer(self, requests):
        waiting = []
        async for request in requests:
            head = json.loads(request.raw_input_contents[0][4:])
            if "abort" in head:
                self.aborted.append(head["abort"])
                continue
            self.heads.append(head)
            waiting.append(request.id)
            if len(waiting) == self.requests:
                for response in self.make_responses(*waiting):
                    yield response
                    await asyncio.sleep(self.pause_s)
                waiting.clear()


@pytest.fixture
async def triton():
    triton = Triton()
    async with serve(triton) as (_, address), grpc.aio.insecure_channel(address) as channel:
        triton.channel = channel
        yield triton
        await close_streams(channel)


async def ask(triton, limits=None):
    """Return the body of an answer, or the code of its failure."""
    body = b""
    try:
        async with contextlib.aclosing(stream_api(triton.channel, NAME, REQUEST, deadlines=limits)) as pieces:
            async for piece in pieces:
                body += piece.body
    except SlipwayError as error:
        return error.code
    return body


def whole(*ids):
    """Answer each request with two parts, in two frames."""
    yield frame(*(part(name, 0, b"keel") for name in ids))
    yield frame(*(part(name, 1, b" hull", last=True) for name in ids))


async def test_each_request_gets_its_parts_of_a_frame(triton):
    triton.requests, triton.make_responses = 2, whole
    assert await asyncio.gather(ask(triton), ask(triton)) == [b"keel hull"] * 2
    assert triton.heads[0]["stream"] == triton.heads[1]["stream"]


async def test_frames_that_overtake_one_another_are_put_in_order(triton):
    def swapped(a, b):
        yield frame(part(a, 0, b"keel"))
        yield frame(part(a, 2, b" mast", last=True), part(b, 1, b" hull"))
        yield frame(part(b, 2, b" mast", last=True))
        yield frame(part(b, 0, b"keel"), part(a, 1, b" hull"))

    triton.requests, triton.make_responses = 2, swapped
    assert await asyncio.gather(ask(triton), ask(triton)) == [b"keel hull mast"] * 2


async def test_a_failure_that_overtakes_a_part_comes_after_it(triton):
    def failing(a):
        yield frame(part(a, 1, last=True, error="engine_dead: gone"))
        yield frame(part(a, 0, b"keel"))

    triton.make_responses = failing
    pieces = stream_api(triton.channel, NAME, REQUEST)
    assert (await anext(pieces)).body == b"keel"
    with pytest.raises(SlipwayError) as failed:
        await anext(pieces)
    assert failed.value.code == "engine_dead"
    assert not find_stream(triton.channel, NAME)._waiting


async def test_parts_of_requests_that_are_not_here_are_left_out(triton):
    def strange(a):
        yield frame(part("unknown", 0, b"x"), part(a, 0, b"keel"), part("", 7, b"x"))
        yield frame(part(a, 1, b" hull", last=True), part(a, 2, b"after the end"))

    triton.make_responses = strange
    assert await ask(triton) == b"keel hull"


WRONG = {
    "a part twice": lambda a, *_: frame(part(a, 0, b"x"), part(a, 0, b"x")),
    "a part below zero": lambda a, *_: frame(part(a, -1, b"x")),
    "an early part twice": lambda a, *_: frame(part(a, 5, b"x"), part(a, 5, b"x")),
    "fewer bodies than parts": lambda a, *_: frame(part(a, 0), bodies=b""),
    "more bodies than parts": lambda a, *_: frame(part(a, 0), bodies=element(b"x") * 2),
    "a body beyond the tensor": lambda a, *_: frame(part(a, 0), bodies=struct.pack("<I", 2**32 - 1) + b"x"),
    "half a length": lambda a, *_: frame(part(a, 0), bodies=b"\1\0"),
    "a part that is no object": lambda *_: frame(rows=[7], bodies=element(b"")),
    "no number": lambda a, *_: frame(rows=[{"id": a}], bodies=element(b"")),
    "a number that is none": lambda a, *_: frame(part(a, True)),
    "a status that is none": lambda a, *_: frame(part(a, 0, status="200")),
    "headers that are none": lambda a, *_: frame(part(a, 0, headers=7)),
    "a record that is none": lambda a, *_: frame(part(a, 0, record=7)),
    "a header that is none": lambda a, *_: frame(part(a, 0, headers=[1])),
    "no rows": lambda *_: tensors("any", {"http_body": element(b"x")}),
    "rows that are no JSON": lambda *_: tensors("any", {"http_record": element(b"{"), "http_body": element(b"x")}),
    "rows that are a number": lambda *_: tensors("any", {"http_record": element(b"7"), "http_body": element(b"x")}),
    "rows that are null": lambda *_: tensors("any", {"http_record": element(b"null"), "http_body": element(b"x")}),
    "nested too deeply": lambda *_: tensors("any", {"http_record": element(b"[" * 200_000), "http_body": element(b"")}),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_frame_that_is_wrong_fails_the_requests_of_its_stream_and_no_later_one(triton, wrong):
    triton.requests, triton.make_responses = 2, lambda a, b: [wrong(a, b)]
    limits = Deadlines(5, 5)
    assert await asyncio.gather(ask(triton, limits), ask(triton, limits)) == ["engine_failed"] * 2
    triton.requests, triton.make_responses = 1, whole
    assert await ask(triton, limits) == b"keel hull"


async def test_a_part_that_never_comes_is_waited_for_within_the_limit(triton):
    triton.make_responses = lambda a: [frame(part(a, 0, b"keel")), frame(part(a, 2, b" mast", last=True))]
    assert await ask(triton, Deadlines(5, 0.3)) == "engine_dead"


async def test_silence_has_its_limits_and_retires_the_stream(triton):
    triton.make_responses = lambda *_: []
    assert await ask(triton, Deadlines(0.3, 5)) == "no_first_token"
    triton.make_responses = lambda a: [frame(part(a, 0, b"keel"))]
    stream = find_stream(triton.channel, NAME)
    assert await ask(triton, Deadlines(5, 0.3)) == "engine_dead"
    assert find_stream(triton.channel, NAME) is not stream


@pytest.mark.parametrize("record", [{"output_tokens": 0}, {}, {"output_tokens": "many"}])
async def test_events_before_the_first_token_leave_the_time_for_it(triton, record):
    triton.make_responses = lambda a: [frame(part(a, 0, b"x", record=record))]
    with pytest.raises(SlipwayError) as failed:
        [piece async for piece in stream_api(triton.channel, NAME, REQUEST, deadlines=Deadlines(0.5, 0.1))]
    assert (failed.value.code, failed.value.details["silent_s"]) == ("no_first_token", 0.5)
    triton.make_responses = lambda a: [frame(part(a, 0, b"x", record=record)), frame(part(a, 1, b"x", last=True))]
    triton.pause_s = 0.4
    assert await ask(triton, Deadlines(5, 0.1)) == b"xx"


async def test_parts_that_come_in_time_reset_the_silence(triton):
    triton.make_responses = lambda a: [frame(part(a, number, b"x", last=number == 5)) for number in range(6)]
    triton.pause_s = 0.2
    assert await ask(triton, Deadlines(0.6, 0.6)) == b"xxxxxx"


async def test_too_many_parts_before_their_time_abort_the_request(triton):
    def early(a):
        yield frame(*(part(a, number, b"x") for number in range(1, WAITING_PIECES + 10)))

    triton.make_responses = early
    assert await ask(triton, Deadlines(5, 5)) == "internal_error"
    async with asyncio.timeout(5):
        while not triton.aborted:
            await asyncio.sleep(0.01)


async def test_a_stream_that_the_server_does_not_end_is_cancelled_after_a_limit(triton, monkeypatch):
    monkeypatch.setattr(engine_streams, "IDLE_S", 0.05)
    monkeypatch.setattr(engine_streams, "DRAIN_S", 0.3)
    triton.make_responses, triton.hangs = whole, True
    assert await ask(triton) == b"keel hull"
    stream = find_stream(triton.channel, NAME)
    async with asyncio.timeout(5):
        await asyncio.wait(stream._tasks)
        while triton.open:
            await asyncio.sleep(0.01)
    assert await ask(triton) == b"keel hull"


async def test_a_stream_that_its_server_ends_in_time_is_not_cancelled(triton, monkeypatch):
    monkeypatch.setattr(engine_streams, "IDLE_S", 0.05)
    triton.make_responses = whole
    assert await ask(triton) == b"keel hull"
    stream = find_stream(triton.channel, NAME)
    async with asyncio.timeout(5):
        await asyncio.wait(stream._tasks)
    assert not stream._call.cancelled()
    assert not count_streams(triton.channel)


async def test_closing_ends_the_streams_that_were_replaced_too(triton):
    triton.make_responses, triton.hangs = whole, True
    streams = []
    for _ in range(3):
        streams.append(find_stream(triton.channel, NAME))
        assert await ask(triton) == b"keel hull"
        streams[-1].drain()
    assert count_streams(triton.channel) == triton.open == 3
    await close_streams(triton.channel)
    assert all(task.done() for stream in streams for task in stream._tasks)
    assert count_streams(triton.channel) == 0
    async with asyncio.timeout(5):
        while triton.open:
            await asyncio.sleep(0.01)


async def test_a_replaced_stream_that_still_answers_fails_when_the_channel_is_closed(triton):
    triton.make_responses = lambda a: [frame(part(a, 0, b"keel"))]
    pieces = stream_api(triton.channel, NAME, REQUEST)
    assert (await anext(pieces)).body == b"keel"
    find_stream(triton.channel, NAME).drain()
    assert find_stream(triton.channel, NAME).is_open
    await close_streams(triton.channel)
    with pytest.raises(SlipwayError) as failed:
        await anext(pieces)
    assert failed.value.code == "endpoint_unreachable"


def test_a_server_has_longer_to_end_a_stream_than_an_aborted_request_takes():
    """Triton may crash when a call is cancelled that is about to end, and the last abort takes `DISCONNECT_S`."""
    source = Path(__file__).resolve().parents[2] / "deploy" / "backends" / "slipway" / "openai_app.py"
    (disconnect_s,) = re.findall(r"^DISCONNECT_S = ([0-9.]+)$", source.read_text(), re.MULTILINE)
    assert min(engine_streams.CLOSE_S, engine_streams.DRAIN_S) > float(disconnect_s)


async def test_parts_that_come_too_early_do_not_reset_the_silence(triton):
    """One that is missing is waited for within the limit, however many follow it."""
    numbers = itertools.chain([0], itertools.count(2))
    triton.make_responses = lambda a: (frame(part(a, number, b"x")) for number in numbers)
    triton.pause_s = 0.1
    assert await ask(triton, Deadlines(5, 0.4)) == "engine_dead"

"""Frames: the parts of all answers on a gRPC stream that appear in one turn of the event loop are one response."""

import asyncio
import json
import types

import pytest

from tests.unit.deploy.backend import FakeSender, load_backend


class Sender(FakeSender):
    """Keeps what was sent; can fail, as Triton's does without shared memory."""

    def __init__(self) -> None:
        super().__init__()
        self.responses: list[object] = []
        self.fails = False
        self.is_broken = False

    def send(self, *responses: object, flags: int = 0) -> None:
        if self.is_broken:
            message = "no sender"
            raise RuntimeError(message)
        if self.fails and responses and not responses[0][1]:
            message = "no shared memory"
            raise RuntimeError(message)
        super().send(*responses, flags=flags)
        self.responses += responses


@pytest.fixture
def replies(monkeypatch):
    with load_backend(monkeypatch, "replies") as module:
        yield module


@pytest.fixture
def frames(replies):
    return replies.Frames()


class Request:
    """A request on a stream, as the backend has it."""

    def __init__(self, replies, frames, name: str, stream: str = "s") -> None:
        self.sender = Sender()
        reply = replies.Reply(types.SimpleNamespace(get_response_sender=lambda: self.sender, request_id=lambda: name))
        self.reply = frames.join(replies.HttpAsk("POST", "/", b"", name, 60.0, stream=stream), reply)
        self.piece = replies.HttpPiece

    def send(self, body: bytes, **fields) -> None:
        self.reply.send_http(self.piece(body, {"output_tokens": 1}, **fields))


@pytest.fixture
def make(replies, frames):
    return lambda name, stream="s": Request(replies, frames, name, stream)


def read(sender: Sender) -> list[list[tuple]]:
    """Return the frames that a sender sent: identifier, number and bytes of each part."""
    listed = []
    for tensors, error in sender.responses:
        assert error is None
        parts = dict(tensors)
        (rows,) = parts["http_record"]
        named = zip(json.loads(rows), parts["http_body"], strict=True)
        listed.append([(row["id"], row["number"], bytes(body), row["last"]) for row, body in named])
    return listed


async def turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_the_parts_of_one_turn_are_one_response(make):
    a, b = make("a"), make("b")
    for body in (b"1", b"2"):
        a.send(body, status=200)
        b.send(body)
        await turn()
    assert read(a.sender) == [
        [("a", 0, b"1", False), ("b", 0, b"1", False)],
        [("a", 1, b"2", False), ("b", 1, b"2", False)],
    ]
    assert b.sender.sent == 0


async def test_a_request_ends_with_its_last_part_and_the_others_go_on(make, frames):
    a, b = make("a"), make("b")
    a.send(b"1", last=True)
    b.send(b"1")
    assert not a.sender.ended
    await turn()
    assert read(a.sender) == [[("a", 0, b"1", True), ("b", 0, b"1", False)]]
    assert a.sender.ended
    assert not a.reply.is_cancelled()
    b.send(b"2", last=True)
    await turn()
    assert read(b.sender) == [[("b", 1, b"2", True)]]
    assert b.sender.ended
    assert not frames._open, "a stream without requests is forgotten"


@pytest.mark.parametrize("end", ["finish", "fail"])
async def test_an_end_without_a_last_part_is_sent_at_once_and_after_what_was_before(make, end):
    a, b = make("a"), make("b")
    b.send(b"1")
    a.send(b"1")
    a.reply.finish() if end == "finish" else a.reply.fail("engine_dead", "gone")
    assert a.sender.ended
    ((tensors, _),) = b.sender.responses
    rows = json.loads(dict(tensors)["http_record"][0])
    assert [(row["id"], row["number"], row["last"]) for row in rows] == [
        ("b", 0, False),
        ("a", 0, False),
        ("a", 1, True),
    ]
    assert rows[2].get("error") == (None if end == "finish" else "engine_dead: gone")
    a.send(b"2")
    a.reply.finish()
    a.reply.fail("engine_failed", "late")
    await turn()
    assert b.sender.sent == 1


async def test_the_streams_of_two_gateways_share_no_frame(make):
    a, b = make("a", "s"), make("b", "t")
    a.send(b"1")
    b.send(b"1")
    await turn()
    assert read(a.sender) == [[("a", 0, b"1", False)]]
    assert read(b.sender) == [[("b", 0, b"1", False)]]


async def test_a_large_part_does_not_wait_for_the_turn(make, replies):
    a = make("a")
    a.send(b"x" * (replies.FRAME_BYTES + 1))
    assert a.sender.sent == 1
    a.send(b"1")
    await turn()
    assert [number for ((_, number, _, _),) in read(a.sender)] == [0, 1]


def errors(sender: Sender) -> list[str]:
    return [error for _, error in sender.responses if error]


async def test_a_frame_that_cannot_be_sent_fails_the_answers_that_lack_it_and_no_other(make):
    a, b, c = make("a"), make("b"), make("c")
    for request in (a, b):
        request.sender.fails = True
        request.send(b"1")
    await turn()
    for request in (a, b):
        (error,) = errors(request.sender)
        assert error.startswith("engine_failed: a frame could not be sent")
        assert request.sender.ended
        request.send(b"2", last=True)
    c.send(b"1")
    await turn()
    assert read(c.sender) == [[("c", 0, b"1", False)]]


async def test_a_frame_that_one_request_cannot_send_goes_with_another(make):
    a, b = make("a"), make("b")
    a.sender.fails = True
    for request in (a, b):
        request.send(b"1")
    await turn()
    assert read(b.sender) == [[("a", 0, b"1", False), ("b", 0, b"1", False)]]
    assert not a.sender.ended
    a.sender.fails = False
    a.send(b"2", last=True)
    await turn()
    assert read(a.sender) == [[("a", 1, b"2", True)]]
    assert a.sender.ended


async def test_a_frame_does_not_go_with_a_request_that_has_ended(make):
    a, b = make("a"), make("b")
    for request in (a, b):
        request.send(b"1")
    a.reply.reply.finish()
    await turn()
    assert read(b.sender) == [[("a", 0, b"1", False), ("b", 0, b"1", False)]]


async def test_a_request_that_cannot_even_fail_takes_no_other_with_it(make, frames):
    a, b = make("a"), make("b")
    for request in (a, b):
        request.sender.fails = True
        request.send(b"1")
    a.sender.is_broken = True
    await turn()
    assert errors(a.sender) == []
    assert errors(b.sender)
    assert b.sender.ended
    assert not frames._open, "a stream without requests is forgotten"
    again = make("c")
    again.send(b"1", last=True)
    await turn()
    assert read(again.sender) == [[("c", 0, b"1", True)]]


async def test_an_end_that_cannot_be_sent_takes_no_other_with_it(make, frames):
    a, b, c = make("a"), make("b"), make("c")
    c.send(b"1")
    for request in (a, b):
        request.send(b"1", last=True)
    a.sender.is_broken = True
    await turn()
    assert b.sender.ended
    c.send(b"2", last=True)
    await turn()
    assert c.sender.ended
    assert not frames._open


async def test_a_part_that_cannot_be_encoded_fails_its_own_answer_only(make):
    a, b = make("a"), make("b")
    a.send(b"1")
    b.send(b"1")
    await turn()
    b.reply.send_http(b.piece(b"2", {"output_tokens": object()}))
    a.send(b"2")
    await turn()
    ((tensors, _),) = b.sender.responses
    rows = json.loads(dict(tensors)["http_record"][0])
    assert [(row["id"], row["number"], row["last"]) for row in rows] == [("b", 1, True), ("a", 1, False)]
    assert rows[0]["error"].startswith("engine_failed: a part could not be encoded: TypeError")
    assert b.sender.ended
    b.send(b"3")
    a.send(b"3", last=True)
    await turn()
    assert a.sender.ended


async def test_the_task_of_an_answer_that_lacks_a_part_is_told_to_end(make):
    """The loop of the backend cancels the tasks whose replies are cancelled."""
    a, b = make("a"), make("b")
    a.sender.fails = True
    a.send(b"1")
    await turn()
    assert a.sender.ended
    assert a.reply.is_cancelled()
    b.reply.send_http(b.piece(b"1", {"output_tokens": object()}))
    await turn()
    assert b.reply.is_cancelled()

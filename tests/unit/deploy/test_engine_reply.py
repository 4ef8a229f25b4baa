"""The response stream of one request in our Triton backends: nothing is asked or sent after its end."""

import importlib
import types

import numpy as np
import pytest

from tests.unit.deploy.backend import BACKENDS, FakeSender, load_backend


@pytest.fixture
def replies(monkeypatch):
    with load_backend(monkeypatch, "replies") as module:
        yield module


@pytest.fixture
def sender():
    return FakeSender()


@pytest.fixture
def reply(replies, sender):
    return replies.Reply(types.SimpleNamespace(get_response_sender=lambda: sender, request_id=lambda: "r"))


def ask(replies):
    return replies.Ask("", None, {})


class Tensors:
    """The inputs of a request by name, as Triton's stub has them."""

    def __init__(self, **values: object) -> None:
        self.values = values

    def get(self, name):
        value = self.values.get(name)
        return None if value is None else types.SimpleNamespace(as_numpy=lambda: np.array([value], dtype=object))


@pytest.mark.parametrize(
    ("tensors", "prompt"),
    [
        ({"text_input": b"hello"}, {"prompt": "hello"}),
        ({"text_input": b"hello", "cache_salt": b"only this"}, {"prompt": "hello", "cache_salt": "only this"}),
        (
            {"text_input": b"", "prompt_token_ids": b"[1, 2]", "cache_salt": b"s"},
            {"prompt_token_ids": [1, 2], "cache_salt": "s"},
        ),
        ({"text_input": b"", "prompt_token_ids": b"[1, 2]"}, {"prompt_token_ids": [1, 2]}),
        ({"text_input": b"hello", "cache_salt": b""}, {"prompt": "hello"}),
    ],
    ids=["text", "salted text", "salted tokens", "tokens", "empty salt"],
)
def test_a_text_has_cached_prefixes_of_its_own_if_it_comes_with_a_salt(monkeypatch, tensors, prompt):
    monkeypatch.syspath_prepend(str(BACKENDS / "slipway"))
    with load_backend(monkeypatch, "engine_tensors") as engine_tensors:
        text_answers = importlib.import_module("text_answers")
        asked = engine_tensors.parse(Tensors(**tensors))
        assert text_answers.prompt_of(asked) == prompt
        assert asked.sampling == {}


def test_an_open_stream_asks_and_sends(replies, reply, sender):
    assert reply.is_cancelled()
    reply.send(ask(replies), replies.Piece("a", None, 1, 1))
    assert (sender.sent, sender.ended) == (1, False)


@pytest.mark.parametrize("end", ["last piece", "finish", "fail"])
def test_nothing_touches_a_stream_after_its_end(replies, reply, sender, end):
    if end == "last piece":
        reply.send(ask(replies), replies.Piece("a", "stop", 1, 1))
    elif end == "finish":
        reply.finish()
    else:
        reply.fail("engine_dead", "gone")
    assert sender.ended
    assert not reply.is_cancelled()
    reply.send(ask(replies), replies.Piece("b", None, 1, 1))
    reply.send(ask(replies), replies.Piece("b", "stop", 1, 1))
    reply.finish()
    reply.fail("engine_failed", "late")


def test_a_sender_that_cannot_be_asked_has_no_client_that_cancelled(reply, sender):
    """One failure here would end the loop that looks after the cancellations of all requests."""

    sender.lost = True
    assert not reply.is_cancelled()

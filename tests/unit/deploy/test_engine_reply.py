"""The response stream of one request in our Triton backends: nothing is asked or sent after its end."""

import sys
import types
from pathlib import Path

import pytest

BACKENDS = Path(__file__).resolve().parents[3] / "deploy" / "backends"
FINAL = 1


class FakeSender:
    """Behaves like Triton's: using a stream after its final flag crashes the server."""

    def __init__(self) -> None:
        self.ended = False
        self.sent = 0

    def _touch(self) -> None:
        assert not self.ended, "Triton would have crashed"

    def is_cancelled(self) -> bool:
        self._touch()
        return True

    def send(self, *responses: object, flags: int = 0) -> None:
        self._touch()
        self.sent += len(responses)
        self.ended = flags == FINAL


@pytest.fixture
def tensors(monkeypatch):
    """The module as Triton's stub would load it, with stand-ins for what only the stub has."""
    utils = types.ModuleType("triton_python_backend_utils")
    utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
    utils.Tensor = lambda name, value: (name, value)
    utils.TritonError = str
    utils.InferenceResponse = lambda output_tensors, error=None: (output_tensors, error)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    monkeypatch.syspath_prepend(str(BACKENDS))
    monkeypatch.delitem(sys.modules, "engine_tensors", raising=False)
    import engine_tensors

    yield engine_tensors
    sys.modules.pop("engine_tensors", None)


@pytest.fixture
def sender():
    return FakeSender()


@pytest.fixture
def reply(tensors, sender):
    return tensors.Reply(types.SimpleNamespace(get_response_sender=lambda: sender, request_id=lambda: "r"))


def ask(tensors):
    names = tensors.Ask.__dataclass_fields__
    return tensors.Ask(**{name: ("" if name == "text" else {} if name == "sampling" else False) for name in names})


def test_an_open_stream_asks_and_sends(tensors, reply, sender):
    assert reply.is_cancelled()
    reply.send(ask(tensors), tensors.Piece("a", None, 1, 1))
    assert (sender.sent, sender.ended) == (1, False)


@pytest.mark.parametrize("end", ["last piece", "finish", "fail"])
def test_nothing_touches_a_stream_after_its_end(tensors, reply, sender, end):
    if end == "last piece":
        reply.send(ask(tensors), tensors.Piece("a", "stop", 1, 1))
    elif end == "finish":
        reply.finish()
    else:
        reply.fail("engine_dead", "gone")
    assert sender.ended
    assert not reply.is_cancelled()
    reply.send(ask(tensors), tensors.Piece("b", None, 1, 1))
    reply.send(ask(tensors), tensors.Piece("b", "stop", 1, 1))
    reply.finish()
    reply.fail("engine_failed", "late")

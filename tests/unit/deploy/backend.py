"""The backend of the engine, loaded with fakes of Triton's objects."""

import contextlib
import importlib
import sys
import types
from pathlib import Path
from typing import Any

BACKENDS = Path(__file__).resolve().parents[3] / "deploy" / "backends"


FINAL = 1


class FakeSender:
    """Behaves like Triton's: using a stream after its final flag crashes the server."""

    def __init__(self) -> None:
        self.ended = False
        self.sent = 0
        self.lost = False

    def _touch(self) -> None:
        assert not self.ended, "Triton would have crashed"

    def is_cancelled(self) -> bool:
        self._touch()
        if self.lost:
            message = "no shared memory"
            raise RuntimeError(message)
        return True

    def send(self, *responses: object, flags: int = 0) -> None:
        self._touch()
        self.sent += len(responses)
        self.ended = flags == FINAL


@contextlib.contextmanager
def load_backend(monkeypatch, name):
    """Import a module of the backends as Triton's stub would, with stand-ins for what only the stub has."""
    modules = ("engine_tensors", "replies", "text_answers", "openai_record", "error_source", "schema_check")
    utils: Any = types.ModuleType("triton_python_backend_utils")
    utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
    utils.Logger = types.SimpleNamespace(log_error=lambda _message: None)
    utils.Tensor = lambda name, value: (name, value)
    utils.TritonError = str
    utils.get_input_tensor_by_name = lambda asked, name: asked.get(name)
    utils.InferenceResponse = lambda output_tensors, error=None: (output_tensors, error)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    monkeypatch.syspath_prepend(str(BACKENDS))
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield importlib.import_module(name)
    for module in modules:
        sys.modules.pop(module, None)

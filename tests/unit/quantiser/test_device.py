"""What a worker computes on: a GPU where it sees one, and it sees none where it must not use it."""

import pytest
from pydantic import ValidationError

from services.quantiser.adapters.engine import WorkerEngine
from services.quantiser.domain import device_environment
from services.quantiser.settings import QuantiserSettings


def test_a_gpu_is_not_hidden_by_default():
    assert QuantiserSettings().device == "auto"
    assert device_environment("auto") == {}


def test_a_gpu_that_serves_is_hidden_from_every_worker(tmp_path):
    """Both libraries take an accelerator that they see, whatever they are asked."""
    hidden = device_environment("cpu")
    assert hidden == {"CUDA_VISIBLE_DEVICES": ""}
    engine = WorkerEngine(
        log_path=tmp_path / "work.log", threads=None, memory_limit_bytes=None, timeout_s=1.0, device="cpu"
    )
    assert all(hidden.items() <= environment.items() for environment in engine.environments())


def test_another_device_keeps_the_service_from_starting():
    with pytest.raises(ValidationError):
        QuantiserSettings(device="tpu")

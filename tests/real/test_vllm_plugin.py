"""The backend's plugin reaches vLLM as its child processes find it: by metadata on their path."""

import os
import subprocess

import pytest

from testbed.triton import ENGINE, ROOT

pytestmark = [pytest.mark.real, pytest.mark.vllm]
PLUGINS = ROOT / "deploy" / "backends" / "slipway" / "plugins"
ASK = """
import inspect
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
from vllm.plugins import load_general_plugins
before = inspect.signature(SpinCondition.__init__).parameters["busy_loop_s"].default
load_general_plugins()
print(before, inspect.signature(SpinCondition.__init__).parameters["busy_loop_s"].default)
"""


def test_an_idle_engine_is_told_to_sleep_soon():
    environment = {**os.environ, "PYTHONPATH": str(PLUGINS), "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [ENGINE / "bin" / "python", "-c", ASK], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    before, after = map(float, done.stdout.split()[-2:])
    assert before == 1.0, "vLLM changed its own: is the plugin still needed?"
    assert after == 0.005

"""What one process with vLLM reports, for the files of this folder."""

import json
import os
import subprocess

import pytest

from testbed.triton import ENGINE, ROOT

PLUGINS = ROOT / "deploy" / "backends" / "slipway" / "plugins"


@pytest.fixture(scope="package")
def facts():
    """The facts of `testbed/vllm_facts.py`; the plugins are on the path by which the engine's child processes find them."""
    command = [str(ENGINE / "bin" / "python"), "-P", str(ROOT / "testbed" / "vllm_facts.py")]
    environment = {**os.environ, "PYTHONPATH": str(PLUGINS), "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=240)
    return json.loads(done.stdout.splitlines()[-1])

"""The variables that the backend sets before vLLM is imported: no setting of the fleet opens more of its API."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BACKEND = Path(__file__).resolve().parents[3] / "deploy" / "backends" / "slipway"
PROGRAM = """
import json, os, sys, types
triton = sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
triton.TritonModelException = ValueError
sys.path.insert(0, sys.argv[1])
import engine_environment
engine_environment.prepare(sys.argv[2], json.loads(sys.argv[3]), eager=True)
print(json.dumps(dict(os.environ)))
"""
OPENING = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_ENABLE_RESPONSES_API_STORE": "1",
    "VLLM_API_KEY": "another",
    "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION": "1",
}


def prepare(device: str, overrides: dict[str, str], inherited: dict[str, str]) -> dict[str, str]:
    command = [sys.executable, "-c", PROGRAM, str(BACKEND), device, json.dumps(overrides)]
    done = subprocess.run(command, env=inherited, check=True, capture_output=True, text=True, timeout=30)
    return json.loads(done.stdout)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_neither_settings_nor_the_surroundings_open_more_of_the_api(device):
    other = {"VLLM_LOGGING_LEVEL": "INFO", "VLLM_WORKER_MULTIPROC_METHOD": "fork"}
    environment = prepare(device, {**OPENING, **other}, OPENING)
    assert not OPENING.keys() & environment.keys()
    assert environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn", "a fork would not survive the stub's threads"
    assert environment["VLLM_LOGGING_LEVEL"] == "INFO"
    assert environment["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "HF_HUB_OFFLINE"])
def test_only_variables_of_the_engine_may_be_set(name):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        prepare("cpu", {name: "1"}, {})
    assert name in failed.value.stderr

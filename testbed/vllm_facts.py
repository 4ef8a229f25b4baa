"""Print, as JSON, what tests look at in the installed vLLM: plugins, validation of bodies, API, environment variables.

Run by the engine's interpreter; one process for all, because vLLM's imports take 10 seconds. Each part is after those
that it would change.
"""

import inspect
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from testbed import vllm_api, vllm_validation


def idle_seconds() -> list[float]:
    """Return how long an idle engine computes before it sleeps: by vLLM, and after its plugins were loaded."""
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
    from vllm.plugins import load_general_plugins

    def default() -> float:
        return inspect.signature(SpinCondition.__init__).parameters["busy_loop_s"].default

    before = default()
    load_general_plugins()
    return [before, default()]


def variables() -> list[str]:
    """Return the names of vLLM's environment variables."""
    from vllm.envs import environment_variables

    return list(environment_variables)


facts = {
    "idle_s": idle_seconds(),
    "validation": vllm_validation.observe(),
    "api": vllm_api.describe(),
    "variables": variables(),
}
json.dump(facts, sys.stdout)

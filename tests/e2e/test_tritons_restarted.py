"""Tritons that are started again, on the embedded stack: what they serve is loaded again, and no traffic moves."""

import pytest

from testbed.servers import wait_until
from testbed.stack import POLICY
from testbed.users import Users

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(900)]
MODEL = "bot"
ERRORS = {"name": "errors", "metric": "error_ratio", "threshold": 0.05, "min_requests": 10, "alpha": 0.01}
WITH_ROLLBACK = {
    **POLICY,
    "rehearsal": "required",
    "triggers": [{**ERRORS, "action": "automatic", "window_s": 5}],
}


@pytest.fixture(scope="module")
def stack(module_stack, tiny):
    stack = module_stack("--tritons", "2")
    for adapter in ("one", "two"):
        stack.publish(MODEL, tiny[adapter], "--variant", "bf16", policy=WITH_ROLLBACK)
        stack.promoted(MODEL)
    return stack


@pytest.fixture
def users(stack):
    gateway = f"http://127.0.0.1:{stack.part('gateway')['port']}"
    with Users(gateway, stack.headers, MODEL) as users:
        wait_until(lambda: users.answered[f"{MODEL}@v2"] > 8, what="answers of version 2")
        yield users


def restart_tritons(stack) -> None:
    for part in stack.table()["parts"]:
        if part["name"].startswith("triton"):
            stack.kill(part["name"])


def test_tritons_that_load_their_versions_again_move_nothing(stack, users):
    before = stack.route(MODEL)
    restart_tritons(stack)
    lost = users.answered[f"{MODEL}@v2"]
    wait_until(lambda: users.answered[f"{MODEL}@v2"] > lost + 8, timeout_s=60, what="answers of version 2")
    assert stack.route(MODEL) == before
    assert stack.events("rollback.started", MODEL) == []

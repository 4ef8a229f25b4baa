"""An active version that no Triton can load again, on the embedded stack: the previous one takes over by itself."""

import shutil

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


def damage(stack, version: str) -> None:
    """Change a byte of a version's weights on the store's disk, and remove the copies of its Triton."""
    folders = list(stack.state.rglob(version.removeprefix("sha256:")))
    (weights,) = {path.read_bytes() for folder in folders for path in folder.glob("*.safetensors")}
    for volume in stack.state.rglob("*.dat"):
        at = volume.read_bytes().find(weights)
        if at >= 0:
            with volume.open("r+b") as stored:
                stored.seek(at + len(weights) // 2)
                stored.write(bytes([weights[len(weights) // 2] ^ 1]))
            break
    else:
        pytest.fail("the store's disk does not hold the weights")
    for folder in folders:
        shutil.rmtree(folder)


def test_tritons_that_load_their_versions_again_move_nothing(stack, users):
    before = stack.route(MODEL)
    restart_tritons(stack)
    lost = users.answered[f"{MODEL}@v2"]
    wait_until(lambda: users.answered[f"{MODEL}@v2"] > lost + 8, timeout_s=60, what="answers of version 2")
    assert stack.route(MODEL) == before
    assert stack.events("rollback.started", MODEL) == []


def test_a_version_that_cannot_be_loaded_again_is_rolled_back_and_the_alert_says_why(stack, users):
    damage(stack, stack.route(MODEL)["active"]["manifest"]["digest"])
    stack.kill("s3")  # what it holds in memory
    restart_tritons(stack)
    wait_until(lambda: users.answered[f"{MODEL}@v1"] > 8, timeout_s=120, what=f"answers of version 1\n{stack.tail()}")
    route = stack.route(MODEL)
    assert [entry["served"]["target"]["version"] for entry in route["suspended"]] == [2]
    (done,) = stack.await_event("rollback.completed", MODEL)
    assert (done["data"]["failed"]["version"], done["data"]["mode"]) == (2, "automatic")
    (alert,) = [event["data"] for event in stack.events("alert.raised", MODEL) if event["data"]["kind"] == "errors"]
    assert (alert["trigger"], alert["severity"]) == ("errors", "critical")
    assert "failed with not_loaded" in alert["message"]

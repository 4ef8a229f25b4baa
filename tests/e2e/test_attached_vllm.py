"""Two real vLLM servers, attached: released into by the files that `slipway pull` leaves, and rolled back; none lost."""

import pytest

from testbed.models import tiny_base, tiny_lora
from testbed.servers import wait_until
from testbed.stack import POLICY
from testbed.users import Users
from testbed.vllm_server import VllmServer

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(1800)]
MODEL = "bot"
AUTOMATIC = {"min_requests": 10, "alpha": 0.01, "action": "automatic", "window_s": 5}
WITH_ROLLBACK = {
    **POLICY,
    "rehearsal": "required",
    "canary": {"steps": [0.4], "min_requests": 20, "beta": 0.9, "deadline_s": 400},
    "triggers": [
        {"name": "slow", "metric": "ttft_ms", "threshold": 8000, "allowed_ratio": 0.1, **AUTOMATIC},
        {"name": "errors", "metric": "error_ratio", "threshold": 0.05, **AUTOMATIC},
    ],
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Heads of 64, where the attention of vLLM on the CPU takes none of 8."""
    folder = tmp_path_factory.mktemp("models")
    base = tiny_base(folder / "tiny-llama", hidden=256)
    return {"base": base, "one": tiny_lora(base, folder / "one"), "two": tiny_lora(base, folder / "two", seed=5)}


@pytest.fixture(scope="module")
def servers(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    blue = VllmServer(folder, tiny["base"], f"{MODEL}.v0.bf16", "base")
    green = VllmServer(folder, tiny["base"], "nothing")
    blue.start()
    yield blue, green
    for server in (blue, green):
        server.discard()


def deploy(stack, version: int, server: VllmServer, folder) -> None:
    """Wait until a version is to be staged, and start a server of its files, as its operator would."""

    def is_asked() -> bool:
        asked = (event["data"]["candidate"]["target"]["version"] for event in stack.events("stage.requested", MODEL))
        return version in asked

    wait_until(is_asked, timeout_s=300, what=f"the order to stage version {version}")
    stack.ok("pull", f"{MODEL}@v{version}", str(folder))
    server.discard()
    server.serve(folder, f"{MODEL}.v{version}.bf16")


def test_two_vllm_servers_take_turns(module_stack, servers, tiny, tmp_path):
    blue, green = servers
    stack = module_stack(
        MONITOR_UPDATE_EVERY_S="2",
        MONITOR_ASSESS_EVERY_S="2",
        ROLLBACK_CONTROLLER_VERIFY_S="10",
        ROLLBACK_CONTROLLER_PRODUCTION_DRILLS=MODEL,
    )
    stack.ok("attach", MODEL, "--group", "blue", "--url", blue.url)
    stack.ok("attach", MODEL, "--group", "green", "--url", green.url)
    stack.publish(MODEL, tiny["one"], "--variant", "bf16", policy=WITH_ROLLBACK)
    deploy(stack, 1, green, tmp_path / "v1")
    stack.promoted(MODEL, timeout_s=600)
    assert stack.route(MODEL)["active"]["endpoints"] == [green.url]

    url = f"http://127.0.0.1:{stack.part('gateway')['port']}"
    with Users(url, stack.headers, MODEL, rps=4.0) as users:
        stack.publish(MODEL, tiny["two"], "--variant", "bf16", policy=WITH_ROLLBACK)
        deploy(stack, 2, blue, tmp_path / "v2")
        stack.promoted(MODEL, timeout_s=900)
        assert stack.route(MODEL)["active"]["endpoints"] == [blue.url]
        stack.ok("drill", MODEL, "--fault", "delay_ms=12000", "--share", "0.9", "--for", "120s", "--reason", "test")
        (back,) = stack.await_event("rollback.completed", MODEL)
        wait_until(lambda: users.answered.total() >= 300, timeout_s=300, what="300 answers")
    assert users.failed == [], "no request was lost"
    assert set(users.answered) == {f"{MODEL}@v1", f"{MODEL}@v2"}
    assert (back["data"]["verdict"], back["data"]["mode"]) == ("pass", "automatic")
    assert stack.route(MODEL)["active"]["endpoints"] == [green.url]

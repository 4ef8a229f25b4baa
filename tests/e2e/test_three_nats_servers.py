"""The whole flow on three NATS servers of which leaders step down and one is killed: one end, and nothing lost or twice."""

import asyncio
import json
from collections import Counter

import pytest

from contracts.services import EVENTS
from testbed.servers import wait_until
from testbed.stack import POLICY
from testbed.stack_bus import StackBus
from testbed.users import Users
from testbed.written import Published, audit, writing

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(900)]
MODEL = "bot"
WITH_ROLLBACK = {
    **POLICY,
    "rehearsal": "required",
    "triggers": [
        {"name": "slow", "metric": "ttft_ms", "threshold": 2500, "allowed_ratio": 0.1, "min_requests": 10,
         "alpha": 0.01, "action": "automatic", "window_s": 5},
    ],
}  # fmt: skip
ONCE = (
    "release.opened", "checkpoint.merged", "variant.quantised", "version.registered", "variant.benchmarked",
    "rehearsal.completed", "release.finished",
)  # fmt: skip
"""Facts of which a release with one variant has one each."""


@pytest.fixture(scope="module")
def stack(module_stack, tiny):
    stack = module_stack(
        "--nats", "3", MONITOR_UPDATE_EVERY_S="2", ROLLBACK_CONTROLLER_VERIFY_S="10",
    )  # fmt: skip
    stack.publish(MODEL, tiny["one"], "--variant", "bf16")
    stack.promoted(MODEL)
    return stack


def of_release(stack, name: str, release_id: str) -> list[dict]:
    return [event for event in stack.events(name, MODEL) if event["correlationid"] == release_id]


async def until(stack, name: str, count: int) -> list[dict]:
    return await asyncio.to_thread(stack.await_event, name, MODEL, count=count, timeout_s=240)


async def release(stack, bus, js, adapter) -> str:
    """Release the second version while the log's leader steps down and the leader of the releases is killed."""
    await asyncio.to_thread(stack.publish, MODEL, adapter, "--variant", "int8", policy=WITH_ROLLBACK)
    release_id = (await until(stack, "release.opened", 2))[-1]["correlationid"]
    await bus.step_down(js, EVENTS)
    await until(stack, "version.registered", 2)
    killed = await bus.kill_leader(js, "KV_releases")
    await until(stack, "release.finished", 2)
    await asyncio.to_thread(bus.await_back, killed, 1)
    return release_id


async def drill(stack, bus, js) -> None:
    """Make what serves slow until it is rolled back, while the leader of the routes steps down."""
    order = ("drill", MODEL, "--fault", "delay_ms=4000", "--share", "0.9", "--for", "120s", "--reason", "test")
    await asyncio.to_thread(stack.ok, *order)
    await bus.step_down(js, "KV_routes")
    await until(stack, "rollback.completed", 1)


async def test_a_release_and_a_rollback_end_once_though_leaders_step_down_and_a_server_dies(stack, tiny):
    bus = StackBus(stack)
    url = f"http://127.0.0.1:{stack.part('gateway')['port']}"
    async with bus.connected() as js:
        published = Published(js, every_s=0.1)
        with Users(url, stack.headers, MODEL, rps=4.0) as users:
            async with writing(published):
                release_id = await release(stack, bus, js, tiny["two"])
                await drill(stack, bus, js)
        written = await audit(js, published)
    print(f"{written.acknowledged} facts acknowledged, {users.answered} requests answered, {users.failed}")
    assert (written.lost, written.twice) == ([], []), written
    assert users.failed == [], "callers do not depend on the bus"
    assert {f"{MODEL}@v1", f"{MODEL}@v2"} == set(users.answered)
    assert {name: len(of_release(stack, name, release_id)) for name in ONCE} == dict.fromkeys(ONCE, 1)
    (finished,) = of_release(stack, "release.finished", release_id)
    assert finished["data"]["outcome"] == "promoted"
    (back,) = stack.events("rollback.completed", MODEL)
    assert (back["data"]["verdict"], back["data"]["mode"]) == ("pass", "automatic")
    assert len(stack.events("rollback.started", MODEL)) == 1
    assert stack.route(MODEL)["active"]["target"]["version"] == 1
    logged = [json.loads(line)["id"] for line in stack.ok("events", "--json").splitlines()]
    assert [event_id for event_id, times in Counter(logged).items() if times > 1] == []
    assert stack.ask_json("deadletters", "list") == []
    wait_until(lambda: "3 copies of each" in stack.slipway("doctor").stdout, what="copies that are up to date")

"""The store, or Triton and its agent, stand still for ten seconds before server-manager: nothing is taken for dead."""

import asyncio
import contextlib
from typing import Any

import httpx
import pytest

from contracts.facts import AlertRaised, DeploymentChanged, RollbackOrdered
from testbed.attesters import attester_variables
from testbed.gateway import Gateway
from testbed.relay import relaying
from testbed.servers import connection, running, wait_until
from testbed.services import running_service, stored_facts, wait_for_fact
from tests.integration.rollback_process import MODULE, QUICK
from tests.kit.serving import ServerManager

pytestmark = [pytest.mark.real]
STALL_S = 10.0
MIB = 1024 * 1024


@pytest.fixture
def gateway(nats_server, manager, tmp_path):
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path / "gateway"))) as process:
        yield process


def served(gateway, model) -> str:
    """Return the version that answers."""
    body = {"model": model, "prompt": "x", "max_tokens": 2}
    answer = httpx.post(f"{gateway.base_url}/v1/completions", json=body, headers=gateway.headers, timeout=20)
    return answer.json()["system_fingerprint"].split(".")[1]


@pytest.fixture
def manager(nats_server, s3_server, triton, fleet, tmp_path):
    """A server-manager that reaches the store, Triton and its agent through a relay each."""
    folder = tmp_path / "manager"
    more = {"engine": "toy", "memory_budget_bytes": 1000 * MIB, "overhead_bytes": 64 * MIB}
    process: Any = ServerManager(folder, connection(nats_server, s3_server, folder), triton, **more)
    process.variables |= attester_variables(fleet.keys, "services.server_manager.main")
    process.relays = {}
    with contextlib.ExitStack() as stack:
        for name in ("SLIPWAY_S3_ENDPOINT", "SERVER_MANAGER_TRITON_GRPC", "SERVER_MANAGER_AGENT_GRPC"):
            port = int(process.variables[name].rpartition(":")[2])
            relay = process.relays[name] = stack.enter_context(relaying(port))
            process.variables[name] = f"127.0.0.1:{relay.port}"
        stack.enter_context(running(process))
        yield process


async def at_epoch(fleet, model, epoch):
    async def answered():
        entry = await fleet.routes.get(model)
        return entry is not None and entry.value.epoch == epoch and not (await fleet.record()).orders

    await fleet.until(answered, what=f"epoch {epoch} of {model}")


def log_of(process):
    return (process.folder / "log").read_text()


async def test_a_triton_that_stands_still_is_not_taken_for_dead_and_orders_wait_for_it(fleet, manager, tmp_path):
    base, old, new = (fleet.put_toy(tmp_path, "bot", version) for version in range(3))
    await fleet.promote(old, 0, fallback=base)
    await at_epoch(fleet, "bot", 1)
    logged = len(log_of(manager))
    engine = (manager.relays["SERVER_MANAGER_TRITON_GRPC"], manager.relays["SERVER_MANAGER_AGENT_GRPC"])
    for relay in engine:
        relay.hold()
    await fleet.promote(new, 1)
    await asyncio.sleep(STALL_S)  # the time is what is tested
    assert (await fleet.routes.get("bot")).value.active.target == old.target
    for relay in engine:
        relay.release()
    await at_epoch(fleet, "bot", 2)
    assert await fleet.count(AlertRaised) == 0
    assert set((await fleet.phases()).values()) == {"ready"}
    lines = log_of(manager)[logged:]
    assert "gone from the engine" not in lines
    assert "dead" not in lines


@pytest.mark.full
async def test_a_store_that_stands_still_delays_a_release_and_neither_serving_nor_a_rollback(
    fleet, manager, gateway, settings, tmp_path
):
    store = manager.relays["SLIPWAY_S3_ENDPOINT"]
    names = (("bot", 0), ("bot", 1), ("cat", 0), ("cat", 1))
    base, old, other, new = (fleet.put_toy(tmp_path, *named) for named in names)
    await fleet.promote(old, 0, fallback=base)
    await fleet.promote(other, 0)
    await at_epoch(fleet, "bot", 1)
    await at_epoch(fleet, "cat", 1)
    behind = settings.model_copy(update={"s3_endpoint": f"127.0.0.1:{store.port}"})
    with running_service(MODULE, behind, **QUICK):
        await asyncio.to_thread(wait_until, lambda: gateway.get("/v1/models/bot@v1"), what="the route")
        store.hold()
        await fleet.promote(new, 1)
        await fleet.publish(RollbackOrdered(reason="odd", failed=old.target), "bot")
        await asyncio.to_thread(wait_until, lambda: served(gateway, "bot") == "v0", timeout_s=8, what="the rollback")
        await asyncio.sleep(STALL_S)  # the time is what is tested
        assert served(gateway, "cat") == "v0"
        assert (await fleet.routes.get("cat")).value.epoch == 1, "what it loads is not fetched yet"
        store.release()
        await at_epoch(fleet, "cat", 2)
    await asyncio.to_thread(wait_until, lambda: served(gateway, "cat") == "v1", what="the release")
    causes = [changed.data.cause for changed in await wait_for_fact(fleet.js, DeploymentChanged, count=4)]
    assert causes.count("rollback") == 1
    alerts = [raised.data for raised in await stored_facts(fleet.js, AlertRaised)]
    assert {alert.kind for alert in alerts} <= {"standby", "blind"}, (
        "what serves is alive; after the rollback nothing is behind it, and no version here has a signed policy"
    )

"""The embedded stack on three NATS servers: three copies of everything, a killed one is back, and all of it is kept."""

import asyncio
import json

import pytest

from deploy.local.bus import server_names
from testbed.servers import wait_until
from testbed.stack import POLICY, Stack
from testbed.stack_bus import StackBus

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(400)]
SERVERS = server_names(3)


def nats_finding(stack):
    """Return what `slipway doctor` says of the bus."""
    findings = json.loads(stack.slipway("doctor", "--json").stdout)["findings"]
    (finding,) = [each for each in findings if each["check"] == "nats"]
    return finding


async def kill_leader(bus, stream):
    async with bus.connected() as js:
        return await bus.kill_leader(js, stream)


def test_three_servers_keep_three_copies_and_a_killed_one_comes_back(tmp_path):
    state = tmp_path / "state"
    policy = tmp_path / "policy.yaml"
    with Stack(state, "--nats", "3") as stack:
        assert [part["name"] for part in stack.table()["parts"]][:3] == SERVERS
        wait_until(lambda: nats_finding(stack)["state"] == "ok", what="copies that are up to date")
        assert "3 copies of each" in nats_finding(stack)["detail"]
        policy.write_text(json.dumps(POLICY))
        stack.ok("policy", "set", "bot", str(policy))
        stored = stack.ok("policy", "show", "bot")
        bus = StackBus(stack)
        killed = asyncio.run(kill_leader(bus, "KV_policies"))
        assert stack.ok("policy", "show", "bot") == stored, "the other two choose a leader meanwhile"
        bus.await_back(killed, 1)
        wait_until(lambda: nats_finding(stack)["state"] == "ok", what="copies that are up to date again")
        for name in SERVERS:
            assert (state / "logs" / f"{name}.log").stat().st_size
    with Stack(state) as stack:
        assert [part["name"] for part in stack.table()["parts"]][:3] == SERVERS, "the number is kept"
        assert stack.ok("policy", "show", "bot") == stored, "and what they stored"
    fewer = Stack(state).slipway("up", "--engine", "toy", "--nats", "1")
    assert (fewer.returncode, "the stack was made with 3" in fewer.stderr) == (2, True), fewer.stderr

"""The record of the lease cannot be read: what serves is healed, nothing else happens, until the record is written anew."""

import asyncio

import pytest

from contracts.facts import DeploymentChanged
from shared.errors import Transient
from tests.unit.server_manager.factories import route, traffic_requested
from tests.unit.server_manager.world import V1, World


async def test_a_damaged_lease_is_repaired_by_a_free_one_with_a_higher_term(tmp_path):
    world = World(tmp_path)
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    bucket = world.state.bucket
    bucket.data["main.leader"] = (bucket.data["main.leader"][0] + 1000, b"{")
    await world.order(traffic_requested("t1", 2, epoch=1))
    world.engine.dead.add(V1)
    for _ in range(6):
        with pytest.raises(Transient, match=r"servers/main.leader|memory/main.leader"):
            await world.ticks(1, seconds=5)
        for _ in range(60):
            await asyncio.sleep(0)
    assert world.phases()[V1] == "ready"
    assert world.said.emits == []
    bucket.data["main.leader"] = (bucket.data["main.leader"][0] + 1, b'{"schema_version":1,"holder":"","term":1001}')
    await world.ticks(8)
    assert world.lease.leader.term == world.lease.terms.leader.term == 1002
    assert len(world.said.facts(DeploymentChanged)) == 1

"""Of two server-managers the newer one led and wrote the fleet's record: the older one leaves lease and record to it."""

import asyncio
import json

import pytest

from services.server_manager.domain.records import Servers
from shared.storage.kept_records import NewerRecords
from tests.unit.server_manager.factories import route
from tests.unit.server_manager.world import World


async def test_an_older_holder_of_the_lease_ends_and_releases_it(tmp_path):
    world = World(tmp_path)
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    bucket = world.state.bucket
    revision, data = bucket.data["main"]
    later = json.dumps({**json.loads(data), "schema_version": Servers.SCHEMA_VERSION + 1}).encode()
    bucket.data["main"] = (revision + 1, later)
    with pytest.raises(NewerRecords, match=f"writes versions up to {Servers.SCHEMA_VERSION}"):
        async with asyncio.timeout(5):
            await world.manager.run()
    assert bucket.data["main"] == (revision + 1, later)
    assert not world.lead.valid(), "the newer one need not wait until the lease lapses"
    assert world.lease.leader.holder == ""

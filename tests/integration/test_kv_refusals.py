"""What a writer of records is told when its write is refused: a conflict only where another writer was first."""

import asyncio

import pytest
from nats.js.errors import BadRequestError

from contracts.routes import Route
from decisions.routes.edits import Changed
from services.rollback_controller.adapters.kv import KvRoutes as ControllerRoutes
from services.server_manager.adapters.kv_state import KvRecords, KvRoutes
from services.server_manager.domain.records import Servers
from services.server_manager.fleet_state import FleetState
from shared.errors import Permanent, Transient, translate
from shared.messaging.records import RecordStore
from shared.storage.kv import Bucket
from testbed import factories as k
from tests.kit.records import MemoryPublisher, dump_newer

KEY = k.MODEL


async def test_a_record_that_is_too_large_is_refused_for_good_and_is_no_conflict(js):
    await js.delete_key_value("routes")
    await js.create_key_value(bucket="routes", max_value_size=64)
    bucket = Bucket(js, "routes", Route)
    for write in (bucket.create(KEY, k.route()), bucket.update(KEY, k.route(), 0)):
        with pytest.raises(BadRequestError) as caught:
            await write
        assert isinstance(translate(caught.value), Permanent)


class Contended(Bucket):
    """A bucket in which another writer is first each time."""

    async def create(self, key, value):
        await super().create(key, value)
        return await super().create(key, value)

    async def update(self, key, value, revision):
        await super().update(key, value, revision)
        return await super().update(key, value, revision)


def contended_state(js):
    records = Contended(js, "servers", Servers)
    return FleetState(
        RecordStore("servers", records, MemoryPublisher("server-manager"), service="server-manager"), "main"
    )


def edits(js):
    numbers = iter(range(1, 1000))

    def load(servers):
        return servers.model_copy(update={"memory_budget_bytes": next(numbers)})

    return {
        "servers": lambda: contended_state(js).write(load),
        "routes": lambda: KvRoutes(Contended(js, "routes", Route)).edit(
            KEY, lambda route: Changed(route=route.model_copy(update={"epoch": route.epoch + 1}), cause="restore")
        ),
    }


@pytest.mark.parametrize("record", ["servers", "routes"])
async def test_an_edit_that_always_loses_ends_and_names_the_record(js, record):
    async with asyncio.timeout(20):
        with pytest.raises(Transient, match="kept changing") as caught:
            await edits(js)[record]()
    assert caught.value.code == "bus_unavailable"


async def test_a_route_of_a_newer_version_is_not_written_by_an_older_controller_or_manager(js):
    """Either would drop the fields that it does not know."""
    newer = dump_newer(k.route())
    await (await js.key_value("routes")).put(KEY, newer)
    for call in (
        ControllerRoutes(lambda: js).get("production", KEY),
        KvRoutes(KvRecords(lambda: js, "routes", Route)).edit(
            KEY, lambda route: Changed(route.model_copy(update={"epoch": 99}), "promote")
        ),
    ):
        with pytest.raises(Transient) as caught:
            await call
        assert caught.value.code == "record_version_unknown"
    assert (await (await js.key_value("routes")).get(KEY)).value == newer

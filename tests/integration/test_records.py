"""The record store on a real server, under the same suite as its in-memory twin."""

import asyncio
import dataclasses

import pytest

from contracts.facts import DeadlinePassed
from contracts.services import EVENTS
from shared.messaging.bus import Bus
from shared.messaging.provision import provision
from shared.messaging.topology import DEDUPE_WINDOW_S
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from testbed.services import stored_facts
from tests.kit.conformance_records import RecordsConformance

BUCKET = "releases"


class KeyValueWorld:
    """The bucket `releases` and the log of a real server."""

    def __init__(self, js, bus):
        self._js = js
        self._bus = bus
        self.publisher = bus
        self.limit_bytes = bus.client.max_payload - 512
        self.boottime_s = 0.0
        self.options = {"boottime": lambda: self.boottime_s}

    def records(self, kind):
        return Bucket(self._bus.js, BUCKET, kind)

    async def put(self, key, data):
        await (await self._js.key_value(BUCKET)).put(key, data)

    async def get(self, key):
        return (await (await self._js.key_value(BUCKET)).get(key)).value or b""

    async def log(self):
        return [(event.data.release_id, event.data.step) for event in await stored_facts(self._js, DeadlinePassed)]

    async def origins(self):
        stored = await stored_facts(self._js, DeadlinePassed)
        return [(event.subject, event.correlationid, event.environment, event.causationid) for event in stored]

    async def forget(self):
        self.boottime_s += DEDUPE_WINDOW_S
        config = (await self._js.stream_info(EVENTS)).config
        await self._js.update_stream(dataclasses.replace(config, duplicate_window=0.1))
        await self._publish_probe()
        while (await self._publish_probe()).duplicate:  # the server forgets ids in the order in which they came
            await asyncio.sleep(0.05)
        await self._js.update_stream(config)

    async def _publish_probe(self):
        headers = {"Nats-Msg-Id": "probe"}
        return await self._js.publish("slipway.release.finished.v1.probe.registry", b"", headers=headers, stream=EVENTS)

    async def lose(self):
        await self._js.delete_key_value(BUCKET)

    async def restore(self):
        await provision(self._js)


class TestKeyValueRecords(RecordsConformance):
    @pytest.fixture
    async def world(self, js, settings):
        bus = Bus(settings, "registry", SystemClock())
        await bus.connect()
        yield KeyValueWorld(js, bus)
        await bus.stop()

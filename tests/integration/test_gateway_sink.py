"""The gateway's telemetry, and the usage of keys, on a real bus."""

import asyncio
import contextlib

import pytest

from contracts.api_usage import MonthlyUsage
from contracts.envelope import Event, nats_subject
from contracts.facts import InferenceBatch
from contracts.services import TELEMETRY
from services.gateway.adapters.bus import BusConnection
from services.gateway.app import SERVICE
from services.gateway.callers.budgets import Budgets
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from tests.unit.gateway.sink_conformance import SinkConformance


class TestBusConnection(SinkConformance):
    @pytest.fixture
    def unreachable(self, bus_settings):
        return BusConnection(Bus(bus_settings, SERVICE, SystemClock()))

    @pytest.fixture
    async def sink(self, unreachable, js):
        self.js = js
        async with asyncio.timeout(60):
            await unreachable.connect()
        yield unreachable
        await unreachable.close()

    async def stored(self, _sink, count):
        stored = []
        for environment in ("production", "staging"):
            subject = nats_subject(InferenceBatch.TYPE, "*", "gateway", environment)
            subscription = await self.js.pull_subscribe(subject, stream=TELEMETRY)
            with contextlib.suppress(TimeoutError):
                for message in await subscription.fetch(10, timeout=1):
                    event = Event[InferenceBatch].model_validate_json(message.data)
                    ids = tuple(record.request_id for record in event.data.records)
                    stored.append((event.subject, event.environment, ids))
        assert len(stored) == count
        return stored

    async def test_usage_is_recorded_beside_a_record_that_cannot_be_read(self, sink, js):
        bucket = await js.key_value("api-usage")
        await bucket.put("aaaaaaaaaaaa", b"{")
        budgets = Budgets(SystemClock(), "a" * 16)
        for account in ("aaaaaaaaaaaa", "bbbbbbbbbbbb", "team-shop"):
            budgets.add(account, tokens=7, requests=1)
        await sink.record_all(budgets)
        assert budgets.unrecorded() == {"aaaaaaaaaaaa": (7, 1)}
        entry = await Bucket(js, "api-usage", MonthlyUsage).get("bbbbbbbbbbbb")
        assert (entry.value.tokens, entry.value.requests) == (7, 1)
        await bucket.delete("aaaaaaaaaaaa")
        await sink.record_all(budgets)
        assert budgets.unrecorded() == {}

"""The gateway's telemetry, and the usage of keys, on a real bus."""

import asyncio
import contextlib

import pytest

from contracts.api_usage import MonthlyUsage
from contracts.envelope import Event, nats_subject
from contracts.facts import InferenceBatch
from contracts.runtimes import FleetRuntime, FleetRuntimes, RunningTarget
from contracts.services import TELEMETRY
from services.gateway.adapters.bus import BusConnection
from services.gateway.app import SERVICE
from services.gateway.callers.budgets import Budgets
from services.gateway.domain.records import AnswerFailed
from services.gateway.routing.balancer import Balancer
from services.gateway.routing.endpoints import Stalls
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from testbed import factories as f
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

    async def test_what_server_manager_gave_up_has_no_time_to_load_any_more(self, sink, js):
        served = f.served(7, endpoints=("a:1",))
        balancer = Balancer(SystemClock(), None, lambda *_: None, Stalls(None, 0.0, monotonic=None, count=None))
        for is_not_loaded in (False, True):
            failure = AnswerFailed("endpoint_unreachable", "not there")
            failure.is_not_loaded = is_not_loaded
            balancer.note_failure(served, "a:1", "chat", failure)
        assert balancer.awaits_loads
        running = RunningTarget(target=served.target, phase="failed", given_up=True)
        runtimes = FleetRuntimes(
            runtimes=(FleetRuntime(name="default", endpoint="a:1", answers=True, targets=(running,)),)
        )
        for key in ("main", "damaged.runtimes"):
            await (await js.key_value("servers")).put(key, b"another record")
        await Bucket(js, "servers", FleetRuntimes).create("main.runtimes", runtimes)
        noting = asyncio.create_task(sink.note_given_up(balancer))
        async with asyncio.timeout(10):
            while balancer.awaits_loads:
                await asyncio.sleep(0.1)
        noting.cancel()

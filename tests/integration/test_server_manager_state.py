"""The record, the routes and the lead in real key-value buckets."""

import asyncio

import pytest

from services.server_manager.adapters.kv_state import KvLeadership, KvRoutes, KvState
from tests.kit.conformance_serving import RoutesConformance, StateConformance
from tests.kit.fakes_serving import FakeClock


@pytest.fixture
async def clean(js):
    """Buckets that no earlier test wrote to."""
    for name in ("servers", "routes"):
        bucket = await js.key_value(name)
        for key in ("main", "main.leader", "bot"):
            await bucket.purge(key)
    return js


class TestKvState(StateConformance):
    @pytest.fixture
    def state(self, clean):
        return KvState(lambda: clean, "main")

    async def test_an_edit_that_changes_nothing_writes_nothing(self, state, clean):
        await state.edit(lambda record: record.model_copy(update={"endpoint": "a:1"}))
        before = (await (await clean.key_value("servers")).get("main")).revision
        await state.edit(lambda record: record)
        assert (await (await clean.key_value("servers")).get("main")).revision == before


class TestKvRoutes(RoutesConformance):
    @pytest.fixture
    def routes(self, clean):
        return KvRoutes(lambda: clean)


class TestLeadership:
    async def test_one_of_many_leads(self, clean):
        clock = FakeClock()
        replicas = [KvLeadership(lambda: clean, "main", f"r{n}", clock) for n in range(5)]
        assert sum(await asyncio.gather(*(one.hold() for one in replicas))) == 1
        assert sum(await asyncio.gather(*(one.hold() for one in replicas))) == 1

    async def test_the_lead_is_kept_by_renewing_and_taken_when_it_lapses(self, clean):
        clock = FakeClock()
        first = KvLeadership(lambda: clean, "main", "first", clock)
        second = KvLeadership(lambda: clean, "main", "second", clock)
        assert await first.hold()
        for _ in range(10):
            clock.seconds += 3
            assert await first.hold()
            assert not await second.hold()
        clock.seconds += 5.9
        assert not await second.hold()
        clock.seconds += 0.2
        assert await second.hold()
        assert not await first.hold()

    async def test_the_same_process_started_again_leads_at_once(self, clean):
        clock = FakeClock()
        assert await KvLeadership(lambda: clean, "main", "first", clock).hold()
        assert await KvLeadership(lambda: clean, "main", "first", clock).hold()

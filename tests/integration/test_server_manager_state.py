"""The record, the routes and the lead in real key-value buckets."""

import asyncio

import pytest

from contracts.attachments import Attachment
from contracts.routes import Route
from contracts.runtimes import FleetRuntimes
from services.server_manager.adapters.kv_state import KvAttachments, KvLeadership, KvRecords, KvRoutes, KvRuntimes
from services.server_manager.adapters.repository_files import LeaseFile
from services.server_manager.domain.records import Leader, Servers
from services.server_manager.fleet_state import FleetState
from services.server_manager.ports import Extent
from shared.messaging.records import RecordStore
from tests.kit.conformance_serving import (
    AttachmentsConformance,
    LeadershipConformance,
    RoutesConformance,
    RuntimesViewConformance,
    StateConformance,
)
from tests.kit.fakes_serving import FakeClock
from tests.kit.records import MemoryPublisher


@pytest.fixture
async def clean(js):
    """Buckets that no earlier test wrote to."""
    for name in ("servers", "routes", "attachments"):
        bucket = await js.key_value(name)
        for key in ("main", "main.leader", "main.runtimes", "main.references", "bot", "cat"):
            await bucket.purge(key)
    return js


def leases(js):
    return KvRecords(lambda: js, "servers", Leader)


class TestFleetState(StateConformance):
    @pytest.fixture
    def state(self, clean):
        store = RecordStore(
            "servers",
            KvRecords(lambda: clean, "servers", Servers),
            MemoryPublisher("server-manager"),
            service="server-manager",
        )
        return FleetState(store, "main")

    async def test_an_edit_that_changes_nothing_writes_nothing(self, state, clean):
        await state.write(lambda record: record.model_copy(update={"memory_budget_bytes": 1}))
        before = (await (await clean.key_value("servers")).get("main")).revision
        await state.write(lambda record: record)
        assert (await (await clean.key_value("servers")).get("main")).revision == before


class TestKvRoutes(RoutesConformance):
    @pytest.fixture
    def routes(self, clean):
        return KvRoutes(KvRecords(lambda: clean, "routes", Route))

    @pytest.fixture
    def put(self, clean):
        async def put(model, data):
            await (await clean.key_value("routes")).put(model, data)

        return put


class TestKvAttachments(AttachmentsConformance):
    @pytest.fixture
    def attachments(self, clean):
        return KvAttachments(KvRecords(lambda: clean, "attachments", Attachment))

    @pytest.fixture
    def put(self, clean):
        async def put(model, data):
            await (await clean.key_value("attachments")).put(model, data)

        return put


class TestKvRuntimes(RuntimesViewConformance):
    @pytest.fixture
    def records(self, clean):
        return KvRecords(lambda: clean, "servers", FleetRuntimes)

    @pytest.fixture
    def view(self, records):
        return KvRuntimes(records, "main")

    @pytest.fixture
    def stored(self, records):
        async def stored():
            entry = await records.get("main.runtimes")
            return entry.value, entry.revision

        return stored


class TestKvLeadership(LeadershipConformance):
    @pytest.fixture
    def pair(self, clean, tmp_path):
        self.clock = FakeClock()
        return [KvLeadership(leases(clean), "main", name, self.clock, LeaseFile(tmp_path)) for name in ("one", "two")]

    async def lapse(self, pair):
        await pair[1].hold()
        self.clock.seconds += 6.1


class TestLeadership:
    @pytest.fixture
    def terms(self, tmp_path):
        return LeaseFile(tmp_path / "models")

    async def test_one_of_many_leads(self, clean, terms):
        clock = FakeClock()
        replicas = [KvLeadership(leases(clean), "main", f"r{n}", clock, terms) for n in range(5)]
        assert sum(await asyncio.gather(*(replica.hold() for replica in replicas))) == 1
        assert sum(await asyncio.gather(*(replica.hold() for replica in replicas))) == 1

    async def test_the_lead_is_kept_by_renewing_and_taken_when_it_lapses(self, clean, terms):
        clock = FakeClock()
        first = KvLeadership(leases(clean), "main", "first", clock, terms)
        second = KvLeadership(leases(clean), "main", "second", clock, terms)
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

    async def test_a_holder_takes_its_lease_for_over_before_others_may_take_it(self, clean, terms):
        clock = FakeClock()
        holder = KvLeadership(leases(clean), "main", "first", clock, terms)
        assert await holder.hold()
        clock.seconds += 2.9
        assert holder.valid()
        clock.seconds += 0.2
        assert not holder.valid()
        assert await holder.confirm() is Extent.ALL, "no other process took it, so it is renewed"
        assert holder.valid()

    async def test_the_term_rises_also_when_the_bucket_was_emptied(self, clean, terms):
        clock = FakeClock()
        terms.write(Leader(holder="earlier", term=41))
        first = KvLeadership(leases(clean), "main", "first", clock, terms)
        assert await first.hold()
        assert terms.read() == Leader(holder="first", term=42)
        await (await clean.key_value("servers")).purge("main.leader")
        assert await first.confirm() is Extent.NOTHING
        assert await first.hold()
        assert terms.read() == Leader(holder="first", term=43)

    async def test_a_holder_whose_bucket_was_restored_takes_a_term_above_the_one_beside_the_engine(self, clean, terms):
        first = KvLeadership(leases(clean), "main", "first", FakeClock(), terms)
        assert await first.hold()
        terms.write(Leader(holder="second", term=7))
        assert first.superseded()
        assert await first.confirm() is Extent.NOTHING
        assert await first.hold(), "the bus says that it leads"
        assert terms.read() == Leader(holder="first", term=8)

    async def test_a_term_that_a_paused_process_wrote_late_is_written_over(self, clean, terms):
        first = KvLeadership(leases(clean), "main", "first", FakeClock(), terms)
        terms.write(Leader(holder="earlier", term=3))
        assert await first.hold()
        terms.write(Leader(holder="late", term=2))
        assert await first.hold()
        assert terms.read() == Leader(holder="first", term=4)

    async def test_a_damaged_lease_file_stops_processes_without_a_bus_and_is_written_over_by_the_holder(
        self, clean, terms, tmp_path
    ):
        first = KvLeadership(leases(clean), "main", "first", FakeClock(), terms)
        assert await first.hold()
        (tmp_path / "models" / "slipway-lease.json").write_bytes(b'{"holder":"fi')
        assert first.superseded()
        assert await first.confirm() is Extent.NOTHING
        assert await first.hold()
        assert terms.read() == Leader(holder="first", term=1)
        assert await first.confirm() is Extent.ALL

    async def test_a_full_disk_does_not_stop_the_next_holder(self, clean, terms):
        class Full:
            read, holds = terms.read, terms.holds

            def write(self, _leader):
                raise OSError(28, "No space left on device")

        terms.write(Leader(holder="earlier", term=3))
        first = KvLeadership(leases(clean), "main", "first", FakeClock(), Full())
        assert await first.hold()
        assert await first.confirm() is Extent.ALL
        terms.write(Leader(holder="next", term=9))
        assert await first.confirm() is Extent.NOTHING

    async def test_a_silent_bus_leaves_recycling_until_another_holder_writes_its_term(self, clean, terms):
        lost = asyncio.Event()

        def js():
            if lost.is_set():
                raise ConnectionRefusedError
            return clean

        first = KvLeadership(KvRecords(js, "servers", Leader), "main", "first", FakeClock(), terms)
        assert await first.hold()
        lost.set()
        assert await first.confirm() is Extent.RECYCLE
        terms.write(Leader(holder="second", term=2))
        assert await first.confirm() is Extent.NOTHING

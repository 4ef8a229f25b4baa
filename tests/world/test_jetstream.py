"""The bus in memory passes what a real NATS server passes: delivery, records, routes, drills, alerts, the lease."""

import json

import pytest

from contracts.envelope import plain
from contracts.facts import DeadlinePassed
from contracts.routes import Route
from contracts.runtimes import FleetRuntimes
from contracts.services import DEADLETTER, EVENTS
from contracts.vocabulary import canonical_json
from services.monitor.adapters.alert_log import AlertLog
from services.rollback_controller.adapters.kv import KvDrills, KvRoutes
from services.rollback_controller.adapters.log import LoggedAlerts
from services.server_manager.adapters.kv_state import KvLeadership, KvRecords, KvRuntimes
from services.server_manager.adapters.kv_state import KvRoutes as FleetRoutes
from services.server_manager.domain.records import Leader, Servers
from services.server_manager.fleet_state import FleetState
from shared.messaging.events import parse_event
from shared.messaging.publishing import publish_event
from shared.messaging.records import RecordStore
from shared.messaging.topology import ACK_WAIT_S, DEDUPE_WINDOW_S
from shared.storage.kv import Bucket
from tests.kit.conformance_bus import SERVICE, BusConformance
from tests.kit.conformance_records import RecordsConformance
from tests.kit.conformance_rollback import (
    SENDER,
    AlertsConformance,
    DrillsConformance,
    OpenAlertsConformance,
    RoutesConformance,
)
from tests.kit.conformance_serving import LeadershipConformance, RuntimesViewConformance, StateConformance
from tests.kit.conformance_serving import RoutesConformance as FleetRoutesConformance
from tests.kit.fake_bus import Life
from tests.kit.fakes_serving import FakeClock, MemoryTerms
from tests.kit.records import AT, MemoryPublisher
from tests.kit.virtual_time import VirtualClock, VirtualTimePolicy
from tests.world.bus import Consumers, WorldBus
from tests.world.jetstream import MAX_PAYLOAD, JetStream, Server, Stream


@pytest.fixture(scope="module")
def event_loop_policy():
    return VirtualTimePolicy()


@pytest.fixture
async def clock():
    return VirtualClock(AT)


@pytest.fixture
async def js(clock):
    return JetStream(Server(clock.true_time))


class BusWorld:
    """A service's bus on JetStream in memory."""

    def __init__(self, js, clock) -> None:
        self.js, self.clock = js, clock
        self.consumers, self.ack_wait_s = Consumers(js.server), ACK_WAIT_S
        self.begin()

    def begin(self):
        self.life = Life()
        self.bus = WorldBus(SERVICE, self.consumers, self.js, self.life, self.clock)

    async def start(self):
        self.bus.start()

    async def kill(self):
        self.bus.close()
        await self.life.close()
        self.begin()

    async def put(self, event):
        await self.js.publish(event.nats_subject, canonical_json(plain(event)))

    async def facts(self, kind):
        stored = self.js.server.streams[EVENTS].messages.values()
        return [
            parse_event(kind, each.subject, each.data) for each in stored if json.loads(each.data)["type"] == kind.TYPE
        ]

    async def dead_letters(self):
        return [each.headers["Slipway-Code"] for each in self.js.server.streams[DEADLETTER].messages.values()]

    async def unacknowledged(self):
        return sum(len(self.consumers.by_name[name].pending) for name in self.bus.consumptions)


class TestBus(BusConformance):
    @pytest.fixture
    async def world(self, js, clock):
        world = BusWorld(js, clock)
        yield world
        await world.life.close()


class RecordsWorld:
    """The bucket `releases` and the log."""

    limit_bytes = MAX_PAYLOAD - 512

    def __init__(self, js, clock) -> None:
        self._js, self._server, self._passed_s = js, js.server, 0.0
        self.publisher = WorldBus("registry", Consumers(js.server), js, Life(), clock)
        self.options = {"boottime": lambda: clock.monotonic() + self._passed_s}

    def records(self, kind):
        return Bucket(self._js, "releases", kind)

    async def put(self, key, data):
        await (await self._js.key_value("releases")).put(key, data)

    async def get(self, key):
        return (await (await self._js.key_value("releases")).get(key)).value or b""

    def _stored(self):
        stored = self._server.streams[EVENTS].messages.values()
        return [parse_event(DeadlinePassed, each.subject, each.data) for each in stored]

    async def log(self):
        return [(event.data.release_id, event.data.step) for event in self._stored()]

    async def origins(self):
        return [(each.subject, each.correlationid, each.environment, each.causationid) for each in self._stored()]

    async def forget(self):
        self._passed_s += DEDUPE_WINDOW_S
        self._server.streams[EVENTS].ids.clear()

    async def lose(self):
        del self._server.streams["KV_releases"]

    async def restore(self):
        self._server.streams["KV_releases"] = Stream("KV_releases", self._server.now())


class TestRecords(RecordsConformance):
    @pytest.fixture
    async def world(self, js, clock):
        return RecordsWorld(js, clock)


class TestRoutes(RoutesConformance):
    @pytest.fixture
    def routes(self, js):
        return KvRoutes(lambda: js)


class TestDrills(DrillsConformance):
    @pytest.fixture
    def drills(self, js):
        return KvDrills(lambda: js)


class TestLoggedAlerts(AlertsConformance):
    @pytest.fixture
    def alerts(self, js):
        self.js = js
        return LoggedAlerts(lambda: js)

    async def store(self, event):
        await publish_event(self.js, event)
        return (await self.js.stream_info(EVENTS)).state.last_seq


class TestAlertLog(OpenAlertsConformance):
    @pytest.fixture
    def past(self, js):
        self.js = js
        return AlertLog(lambda: js, SENDER)

    async def store(self, event):
        await publish_event(self.js, event)


class TestFleetState(StateConformance):
    @pytest.fixture
    def state(self, js):
        records = KvRecords(lambda: js, "servers", Servers)
        publisher = MemoryPublisher("server-manager")
        return FleetState(RecordStore("servers", records, publisher, service="server-manager"), "main")


class TestFleetRoutes(FleetRoutesConformance):
    @pytest.fixture
    def routes(self, js):
        return FleetRoutes(KvRecords(lambda: js, "routes", Route))

    @pytest.fixture
    def put(self, js):
        async def put(model, data):
            await (await js.key_value("routes")).put(model, data)

        return put


class TestRuntimes(RuntimesViewConformance):
    @pytest.fixture
    def records(self, js):
        return KvRecords(lambda: js, "servers", FleetRuntimes)

    @pytest.fixture
    def view(self, records):
        return KvRuntimes(records, "main")

    @pytest.fixture
    def stored(self, records):
        async def stored():
            entry = await records.get("main.runtimes")
            return entry.value, entry.revision

        return stored


class TestLeadership(LeadershipConformance):
    @pytest.fixture
    def pair(self, js):
        self.clock, terms = FakeClock(), MemoryTerms()
        leases = KvRecords(lambda: js, "servers", Leader)
        return [KvLeadership(leases, "main", name, self.clock, terms) for name in ("one", "two")]

    async def lapse(self, pair):
        await pair[1].hold()
        self.clock.seconds += 6.1

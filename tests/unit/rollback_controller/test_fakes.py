"""The fakes behave like the real routes, drills, alerts, probe and gateway; in virtual time."""

import pytest

from testbed import factories as f
from tests.kit.conformance_rollback import (
    AlertsConformance,
    DrillsConformance,
    ProbeConformance,
    RoutesConformance,
    TrafficConformance,
)
from tests.kit.fakes_rollback import FakeDrills, FakeLog, FakeProbe, FakeRoutes, FakeTraffic
from tests.kit.virtual_time import VirtualClock, VirtualTimePolicy


@pytest.fixture(scope="module")
def event_loop_policy():
    return VirtualTimePolicy()


class TestFakeRoutes(RoutesConformance):
    @pytest.fixture
    def routes(self):
        return FakeRoutes()


class TestFakeDrills(DrillsConformance):
    @pytest.fixture
    def drills(self):
        return FakeDrills()


class TestFakeLog(AlertsConformance):
    @pytest.fixture
    def alerts(self):
        self.log = FakeLog(VirtualClock())
        return self.log

    async def store(self, event):
        return self.log.append(event).sequence


class TestFakeProbe(ProbeConformance):
    @pytest.fixture
    def probe(self):
        probe = FakeProbe(deadline_s=1.0)
        probe.unloaded.add(str(f.target(6)))
        probe.hanging.add(str(f.target(5)))
        probe.gone.add("127.0.0.1:1")
        return probe

    @pytest.fixture
    def ready(self):
        return f.served(7)

    @pytest.fixture
    def unloaded(self):
        return f.served(6)

    @pytest.fixture
    def hanging(self):
        return f.served(5)


class TestFakeTraffic(TrafficConformance):
    @pytest.fixture
    def traffic(self):
        self.gateway = FakeTraffic(rps=50.0)
        return self.gateway

    @pytest.fixture
    def gateway(self, traffic):
        return traffic

"""The fakes behave like the real engine, record and routes."""

import pytest

from tests.kit.conformance_serving import EngineConformance, LeadershipConformance, RoutesConformance, StateConformance
from tests.kit.fakes_serving import LEASE_S, FakeClock, FakeEngine, FakeLead, FakeLease, FakeRoutes, FakeState


class TestFakeEngine(EngineConformance):
    @pytest.fixture
    def engine(self):
        return FakeEngine()

    @pytest.fixture
    def kill_engine(self, engine):
        async def kill(name):
            engine.dead.add(name)

        return kill


class TestFakeState(StateConformance):
    @pytest.fixture
    def state(self):
        return FakeState()


class TestFakeRoutes(RoutesConformance):
    @pytest.fixture
    def routes(self):
        return FakeRoutes()

    @pytest.fixture
    def put(self, routes):
        async def put(model, data):
            routes.routes.put(model, data)

        return put


class TestFakeLead(LeadershipConformance):
    @pytest.fixture
    def pair(self):
        lease, clock = FakeLease(), FakeClock()
        return [FakeLead(lease, clock), FakeLead(lease, clock)]

    async def lapse(self, pair):
        await pair[1].hold()
        pair[0].clock.seconds += LEASE_S + 0.1

"""The fakes behave like the real engine, record and routes."""

import pytest

from tests.kit.conformance_serving import EngineConformance, LeadershipConformance, RoutesConformance, StateConformance
from tests.kit.fakes_serving import FakeEngine, FakeLead, FakeLease, FakeRoutes, FakeState


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


class TestFakeLead(LeadershipConformance):
    @pytest.fixture
    def pair(self):
        state, lease = FakeState(), FakeLease()
        return [FakeLead(state, lease), FakeLead(state, lease)]

    async def lapse(self, pair):
        pair[0].lapse()

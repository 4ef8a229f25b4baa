"""The fakes behave like the real engine, cache of artifacts, record and routes."""

import pytest

from contracts.attachments import Attachment
from contracts.runtimes import FleetRuntimes
from shared.errors import Permanent
from shared.storage.record_format import parse
from tests.kit.conformance_serving import (
    NAME,
    ArtifactsConformance,
    AttachedConformance,
    AttachmentsConformance,
    EngineConformance,
    LeadershipConformance,
    RoutesConformance,
    RuntimesViewConformance,
    StateConformance,
)
from tests.kit.fakes_serving import (
    LEASE_S,
    FakeArtifacts,
    FakeAttached,
    FakeAttachments,
    FakeClock,
    FakeEngine,
    FakeLead,
    FakeLease,
    FakeRoutes,
    FakeRuntimesView,
    FakeState,
)
from tests.unit.server_manager.factories import deployable


class TestFakeEngine(EngineConformance):
    @pytest.fixture
    def engine(self):
        return FakeEngine()

    @pytest.fixture
    def kill_engine(self, engine):
        async def kill(name):
            engine.dead.add(name)

        return kill


class TestFakeAttached(AttachedConformance):
    @pytest.fixture
    def engine(self):
        return FakeAttached(NAME)

    @pytest.fixture
    def kill_engine(self, engine):
        async def kill(name):
            engine.dead.add(name)

        return kill

    @pytest.fixture
    def urls(self, engine):
        return engine.groups["blue"]

    @pytest.fixture
    def list_names(self, engine, urls):
        async def change(number, *names):
            engine.names[urls[number]] = set(names)

        return change


class TestFakeAttachments(AttachmentsConformance):
    @pytest.fixture
    def attachments(self):
        return FakeAttachments()

    @pytest.fixture
    def put(self, attachments):
        async def put(model, data):
            attachments.groups[model] = {}
            if data != b"damaged":
                record = parse(Attachment, data, model)
                attachments.groups[model], attachments.adapters[model] = record.groups, record.adapters

        return put


class TestFakeArtifacts(ArtifactsConformance):
    @pytest.fixture
    def artifacts(self, tmp_path):
        return FakeArtifacts(tmp_path)

    @pytest.fixture
    def stored(self):
        return deployable

    @pytest.fixture
    def missing(self, artifacts):
        gone = deployable(9)
        artifacts.broken[gone.manifest.digest] = Permanent("artifact_not_found", "It does not exist.")
        return gone


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


class TestFakeRuntimesView(RuntimesViewConformance):
    @pytest.fixture
    def view(self):
        return FakeRuntimesView()

    @pytest.fixture
    def stored(self, view):
        async def stored():
            return FleetRuntimes(runtimes=tuple(view.stored.values())), view.bucket.last_revision

        return stored


class TestFakeLead(LeadershipConformance):
    @pytest.fixture
    def pair(self):
        lease, clock = FakeLease(), FakeClock()
        return [FakeLead(lease, clock), FakeLead(lease, clock)]

    async def lapse(self, pair):
        await pair[1].hold()
        pair[0].clock.seconds += LEASE_S + 0.1

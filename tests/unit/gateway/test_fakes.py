"""The fake engine and the fake sink pass the suites of the real ones."""

import pytest

from tests.unit.gateway.engine_conformance import LOADED, EngineConformance
from tests.unit.gateway.fakes import FakeEngine, FakeSink
from tests.unit.gateway.sink_conformance import SinkConformance


class TestFakeEngine(EngineConformance):
    @pytest.fixture
    def engine(self):
        return FakeEngine(loaded={str(LOADED)}, gone={"127.0.0.1:2"}, stalled={"127.0.0.1:3"})

    @pytest.fixture
    def endpoint(self):
        return "127.0.0.1:1"

    @pytest.fixture
    def refusing(self):
        return "127.0.0.1:2"

    @pytest.fixture
    def silent(self):
        return "127.0.0.1:3"


class TestFakeSink(SinkConformance):
    @pytest.fixture
    def sink(self):
        return FakeSink()

    @pytest.fixture
    def unreachable(self):
        return FakeSink(down=True)

    async def stored(self, sink, _count):
        return [
            (model, environment, tuple(record.request_id for record in batch.records))
            for model, environment, batch in sink.batches.values()
        ]

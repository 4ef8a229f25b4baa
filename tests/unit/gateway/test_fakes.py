"""The fake engine passes the suite of the real one."""

import pytest

from tests.unit.gateway.engine_conformance import LOADED, EngineConformance
from tests.unit.gateway.fakes import FakeEngine


class TestFakeEngine(EngineConformance):
    @pytest.fixture
    def engine(self):
        return FakeEngine(loaded={str(LOADED)})

    @pytest.fixture
    def endpoint(self):
        return "127.0.0.1:1"

"""The fake registry passes the suite that the real ones pass."""

import pytest

from tests.kit.conformance_mirror import RegistryConformance
from tests.kit.fakes_mirror import FakeRegistry


class TestFakeRegistry(RegistryConformance):
    @pytest.fixture
    def registry(self):
        return FakeRegistry()

    @pytest.fixture
    def model(self):
        return "support-bot"

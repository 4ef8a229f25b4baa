"""The references in memory behave like those in the object store."""

import pytest

from tests.kit.conformance_monitor import ReferencesConformance
from tests.kit.fakes_monitor import FakeReferences


class TestFakeReferences(ReferencesConformance):
    @pytest.fixture
    def references(self):
        return FakeReferences()

    async def damage(self, references, reference):
        references.damaged.add(reference.ref.uri)

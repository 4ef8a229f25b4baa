"""Objects in memory do what the store does."""

import pytest

from tests.kit.conformance_objects import ObjectsConformance
from tests.kit.objects import Objects


class TestObjects(ObjectsConformance):
    @pytest.fixture
    def objects(self):
        return Objects()

    @pytest.fixture
    def prefix(self):
        return "probe/"

    def overwrite(self, objects, key, data):
        objects.put(key, data)

    def hide(self, objects, key):
        objects.put(key, None)

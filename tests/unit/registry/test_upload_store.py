"""The fake of the store of uploads keeps to the suite of the port."""

import pytest

from tests.kit.conformance_uploads import UploadStoreConformance
from tests.kit.fakes_uploads import FakeUploads


class TestFakeUploads(UploadStoreConformance):
    @pytest.fixture
    def uploads(self):
        return FakeUploads()

    @pytest.fixture
    def send(self, uploads):
        return uploads.send

    @pytest.fixture
    def wait(self, uploads):
        return uploads.wait

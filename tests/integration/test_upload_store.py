"""The store of uploads on a real S3 server keeps to the suite that its fake runs too (tests/unit/registry/test_upload_store.py)."""

from datetime import timedelta

import pytest

from services.registry.adapters.uploads import StagedUploads
from shared.runtime.clock import SystemClock
from tests.kit.conformance_uploads import UploadStoreConformance
from tests.kit.uploading import put


class MovedClock(SystemClock):
    """A clock that a test moves."""

    ahead = timedelta()

    def now(self):
        return super().now() + self.ahead


class TestStagedUploads(UploadStoreConformance):
    @pytest.fixture
    def clock(self):
        return MovedClock()

    @pytest.fixture
    def uploads(self, s3_server, clock):
        return StagedUploads(s3_server.settings(), None, 60, clock)

    @pytest.fixture
    def send(self, http):
        return lambda permit, data: put(http, permit, data)

    @pytest.fixture
    def wait(self, clock):
        def wait(time):
            clock.ahead += time

        return wait

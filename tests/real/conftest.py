"""Fixtures of the tests on real engines: a Triton for each test, because they kill it."""

import pytest

from shared.storage.blobs import Store
from tests.kit.servers import running
from tests.kit.serving import Fleet
from tests.kit.triton import TritonServer


@pytest.fixture
def triton(tmp_path):
    with running(TritonServer(tmp_path)) as server:
        yield server


@pytest.fixture
def fleet(js, settings):
    return Fleet(js, Store(settings))

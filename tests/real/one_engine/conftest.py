"""One vLLM with SmolLM2 for the files of this folder, which take it in the order of their names; the last test kills it."""

import pytest

from testbed.servers import running
from testbed.triton import TritonServer
from tests.kit.one_engine import load_smollm2
from tests.kit.pulled import pulled


@pytest.fixture(scope="package")
def triton(tmp_path_factory):
    with running(TritonServer(tmp_path_factory.mktemp("triton"))) as server:
        yield server


@pytest.fixture(scope="package")
def served(triton, smollm2, tmp_path_factory):
    """SmolLM2 as `slipway pull` leaves it, in vLLM in Triton, with a template that fails for one word."""
    root = tmp_path_factory.mktemp("model")
    return load_smollm2(triton, pulled(smollm2, root), root / "bot")

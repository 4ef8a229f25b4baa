"""Fixtures of several files: the engine's environment, a store with object lock, publishers who upload."""

import pytest

from tests.kit.locking import locking_server  # noqa: F401 - fixtures
from tests.kit.uploading import http, intake, publishers, store  # noqa: F401 - fixtures
from tests.kit.wiring import ROOT


@pytest.fixture(scope="session")
def engine_environment():
    """Skip what needs the engine's environment where there is none."""
    if not (ROOT / ".venv-engine" / "bin" / "python").exists():
        pytest.skip("no .venv-engine: run make setup")

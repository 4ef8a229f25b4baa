"""What every test run needs; real servers are fixtures of `tests/kit/servers.py`, which imports them when a test asks for one."""

import pytest

from tests.kit.process_settings import left_behind, process_settings

pytest_plugins = [
    "tests.kit.run.beside",
    "tests.kit.run.chance",
    "tests.kit.run.compiling",
    "tests.kit.run.costs",
    "tests.kit.run.encodable",
    "tests.kit.run.flaky",
    "tests.kit.run.garbage",
    "tests.kit.run.lanes",
    "tests.kit.run.library_settings",
    "tests.kit.run.skips",
    "tests.kit.servers",
    "tests.kit.tiny",
]


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    """Fail a test that leaves the process computing, or reading the environment, otherwise than it found it."""
    before = process_settings()
    yield
    assert left_behind(before, process_settings()) == []

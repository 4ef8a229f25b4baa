"""One stack for the files of this folder, which take it in the order of their names; it ends with the last of them."""

import pytest

from testbed.stack import Stack
from tests.e2e.one_stack.shell import Shell


@pytest.fixture(scope="package")
def empty_stack(tmp_path_factory):
    """A stack with two quantisers; for the first file of the folder, nothing was published on it."""
    stack = Stack(tmp_path_factory.mktemp("stack") / "state", "--quiet", "--replicas", "quantiser=2").up()
    yield stack
    stack.down()
    assert stack.process.returncode == 0, stack.tail()


@pytest.fixture(scope="module")
def stack(empty_stack, tiny):
    """The stack with the tiny base imported."""
    empty_stack.ok("base", "import", str(tiny["base"]))
    return empty_stack


@pytest.fixture
def shell(empty_stack, tmp_path):
    """A shell in the folder of the test."""
    shell = Shell(empty_stack, tmp_path)
    yield shell
    shell.end()

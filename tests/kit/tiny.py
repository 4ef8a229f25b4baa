"""Fixtures around the whole stack: tiny real models made once, and stacks that end with their test or file."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first worker to ask for it makes, and all workers of the run share."""
    from filelock import FileLock

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(folder)
    return folder


def make_models(folder: Path) -> None:
    """Save a tiny base and two LoRAs on it: real files from transformers and peft."""
    from testbed.models import tiny_base, tiny_lora  # takes five seconds, which most tests do without

    base = tiny_base(folder / "tiny-llama")
    tiny_lora(base, folder / "one")
    tiny_lora(base, folder / "two", seed=5)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folders of a tiny base and of two LoRAs on it; no test changes them."""
    folder = made_once(tmp_path_factory, "tiny-models", make_models)
    return {"base": folder / "tiny-llama", "one": folder / "one", "two": folder / "two"}


def _stacks(tmp_path_factory, tiny):
    from testbed.stack import Stack

    started = []

    def start(*arguments: str, **environment: str) -> Stack:
        stack = Stack(tmp_path_factory.mktemp("stack") / "state", *arguments, **environment)
        started.append(stack)
        stack.up()
        stack.ok("base", "import", str(tiny["base"]))
        return stack

    yield start
    for stack in started:
        stack.down()


@pytest.fixture
def stack_of(tmp_path_factory, tiny):
    """Start stacks that end with the test, each with the tiny base imported."""
    yield from _stacks(tmp_path_factory, tiny)


@pytest.fixture(scope="module")
def module_stack(tmp_path_factory, tiny):
    """Start stacks that end with the file, each with the tiny base imported."""
    yield from _stacks(tmp_path_factory, tiny)

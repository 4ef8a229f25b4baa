"""Fixtures around the whole stack: tiny real models made once, and stacks that end with their test or file."""

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny base and two LoRAs on it: real files from transformers and peft."""
    from testbed.models import tiny_base, tiny_lora  # takes five seconds, which most tests do without

    folder = tmp_path_factory.mktemp("models")
    base = tiny_base(folder / "tiny-llama")
    return {"base": base, "one": tiny_lora(base, folder / "one"), "two": tiny_lora(base, folder / "two", seed=5)}


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

"""Parts that hang without ending: serving is back, and a machine without a free processor is no hang."""

import os
import signal
import subprocess
import sys

import pytest

from testbed.servers import wait_until
from tests.chaos.answers import answers

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(600)]

SERVED = "bot.v1.bf16"


@pytest.fixture(scope="module")
def stack(module_stack, tiny):
    """A stack that was brought up, and released a model, while a busy loop for each processor took it."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        stack = module_stack()
        stack.publish("bot", tiny["one"], "--variant", "bf16")
        stack.promoted("bot")
        stack.restarts_when_busy = {part["name"]: part["restarts"] for part in stack.table()["parts"]}
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    return stack


def wait_until_back(stack, name: str, before: int) -> None:
    """Wait until a part is another process and ready, and the model is served."""

    def back() -> bool:
        part = stack.part(name)
        return part["pid"] not in (before, None) and part["state"] == "ready" and answers(stack, "bot", 2) == SERVED

    wait_until(back, timeout_s=60, what=f"serving after {name} hung")


def test_nothing_is_killed_on_a_machine_without_a_free_processor(stack):
    assert {name: count for name, count in stack.restarts_when_busy.items() if count} == {}, stack.tail()


@pytest.mark.parametrize("name", ["triton", "gateway", "server-manager", "nats", "s3", "quantiser"])
def test_a_part_that_is_stopped_while_it_serves(stack, name):
    wait_until(lambda: answers(stack, "bot") == SERVED, timeout_s=60, what="serving")
    wait_until(lambda: stack.part(name)["state"] == "ready", timeout_s=60, what=f"{name} ready after the hang before")
    before = stack.part(name)["pid"]
    os.kill(before, signal.SIGSTOP)
    if name not in ("triton", "gateway"):
        assert answers(stack, "bot") == SERVED
    wait_until_back(stack, name, before)
    assert "it has not answered for" in stack.part(name)["ended"]


@pytest.mark.parametrize("name", ["triton", "gateway"])
def test_a_part_that_is_stopped_while_it_starts(stack, name):
    wait_until(lambda: answers(stack, "bot") == SERVED, timeout_s=60, what="serving")
    before = stack.part(name)["pid"]
    os.kill(before, signal.SIGKILL)
    starting = wait_until(
        lambda: (part := stack.part(name))["state"] == "starting" and part["pid"] != before and part["pid"],
        what=f"the next start of {name}",
    )
    os.kill(starting, signal.SIGSTOP)
    wait_until_back(stack, name, starting)
    assert "it did nothing for" in stack.part(name)["ended"]


def test_triton_that_ends_in_its_crash_handler(stack):
    wait_until(lambda: answers(stack, "bot") == SERVED, timeout_s=60, what="serving")
    before = stack.part("triton")["pid"]
    os.kill(before, signal.SIGABRT)
    wait_until_back(stack, "triton", before)
    assert "Signal (6) received" in (stack.state / "logs" / "triton.log").read_text(errors="replace")

"""Parts that hang without ending: serving is back within seconds, and a machine without a free processor is no hang."""

import os
import signal
import subprocess
import sys
import time

import pytest

from testbed.servers import wait_until
from tests.chaos.answers import answers

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

BACK_WITHIN_S = 15.0
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


def back_within(stack, name: str, before: int, began: float) -> None:
    """Wait until a part is another process and ready, and the model is served; fail after 15 s."""

    def back() -> bool:
        part = stack.part(name)
        return part["pid"] not in (before, None) and part["state"] == "ready" and answers(stack, "bot", 2) == SERVED

    wait_until(back, timeout_s=BACK_WITHIN_S - (time.monotonic() - began), what=f"serving after {name} hung")


def test_nothing_is_killed_on_a_machine_without_a_free_processor(stack):
    assert {name: count for name, count in stack.restarts_when_busy.items() if count} == {}, stack.tail()


@pytest.mark.parametrize("name", ["triton", "gateway", "server-manager", "nats", "s3", "quantiser"])
def test_a_part_that_is_stopped_while_it_serves(stack, name):
    wait_until(lambda: answers(stack, "bot") == SERVED, timeout_s=60, what="serving")
    wait_until(lambda: stack.part(name)["state"] == "ready", timeout_s=60, what=f"{name} ready after the hang before")
    before = stack.part(name)["pid"]
    began = time.monotonic()
    os.kill(before, signal.SIGSTOP)
    if name not in ("triton", "gateway"):
        assert answers(stack, "bot") == SERVED
    back_within(stack, name, before, began)
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
    began = time.monotonic()
    os.kill(starting, signal.SIGSTOP)
    back_within(stack, name, starting, began)
    assert "it did nothing for" in stack.part(name)["ended"]


def test_triton_that_ends_in_its_crash_handler(stack):
    wait_until(lambda: answers(stack, "bot") == SERVED, timeout_s=60, what="serving")
    before = stack.part("triton")["pid"]
    began = time.monotonic()
    os.kill(before, signal.SIGABRT)
    back_within(stack, "triton", before, began)
    assert "Signal (6) received" in (stack.state / "logs" / "triton.log").read_text(errors="replace")

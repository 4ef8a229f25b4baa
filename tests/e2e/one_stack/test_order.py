"""Versions follow the order of admission, also where the second one overtakes the first."""

import psutil
import pytest

from testbed.servers import wait_until

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(600)]


def quantising(stack, variant: str) -> psutil.Process | None:
    """Find the child process that makes a variant."""
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "quantise_worker" in command and variant in command and str(stack.state) in command:
            return process
    return None


def test_versions_follow_admission_even_when_the_second_quantises_first(stack, tiny):
    stack.publish("racer", tiny["one"], "--variant", "int8")
    held = wait_until(lambda: quantising(stack, "int8"), timeout_s=120, what="the first release quantising")
    held.suspend()  # forced: the first waits in mid-quantisation while the second overtakes it
    try:
        stack.publish("racer", tiny["two"], "--variant", "bf16")
        (second,) = stack.await_event("version.registered", "racer")
    finally:
        held.resume()
    finished = stack.await_event("release.finished", "racer", count=2, timeout_s=240)

    opened = stack.events("release.opened", "racer")
    assert [(event["data"]["version"], event["data"]["variants"]) for event in opened] == [(1, ["int8"]), (2, ["bf16"])]
    assert second["data"]["version"] == 2
    assert [event["data"]["version"] for event in stack.events("version.registered", "racer")] == [2, 1]
    outcomes = {event["data"]["version"]: event["data"]["outcome"] for event in finished}
    assert outcomes == {2: "promoted", 1: "superseded"}  # an older version never replaces a newer one
    (route,) = [listed for listed in stack.ask_json("routes") if listed["model"] == "racer"]
    assert route["active"]["target"]["version"] == 2

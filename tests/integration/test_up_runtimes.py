"""The embedded stack's runtimes over several starts: ports are kept."""

import pytest

from testbed.servers import wait_until
from testbed.stack import Stack
from testbed.triton import marked_engine
from testbed.users import Users

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(400)]
MODEL = "bot"


def endpoints(stack):
    return {name: runtime.endpoint for name, runtime in stack.runtimes().items()}


def test_a_runtime_keeps_its_port_while_it_is_gone(tmp_path):
    other, state = marked_engine(tmp_path / "other", "marker"), tmp_path / "state"
    with Stack(state, "--runtime", f"next={other}") as stack:
        first = endpoints(stack)
    with Stack(state, "--runtime", "next=") as stack:
        assert endpoints(stack) == {"default": first["default"]}
    with Stack(state, "--runtime", f"next={other}") as stack:
        assert endpoints(stack) == first


def serve(stack, tiny):
    stack.ok("base", "import", str(tiny["base"]))
    stack.publish(MODEL, tiny["one"], "--variant", "bf16")
    stack.promoted(MODEL)


def home(stack):
    """Return the name of the endpoint that the route of the model names."""
    (address,) = stack.route(MODEL)["active"]["endpoints"]
    return next((name for name, runtime in stack.runtimes().items() if runtime.endpoint == address), "")


def drain_under_load(stack, name):
    """Drain an endpoint while people ask what it serves; return what the command printed."""
    with Users(f"http://127.0.0.1:{stack.part('gateway')['port']}", stack.headers, MODEL) as people:
        wait_until(lambda: people.answered, what="an answer")
        printed = stack.ok("endpoints", "drain", name, "--reason", "Its disk is replaced.", "--wait")
        before = people.answered.total()
        wait_until(lambda: people.answered.total() > before + 5, what="answers of the other one")
    assert people.failed == []
    assert set(people.answered) == {f"{MODEL}@v1"}
    return printed


def test_two_tritons_of_one_runtime_are_drained_while_they_serve_and_kept_from_start_to_start(tmp_path, tiny):
    state = tmp_path / "state"
    with Stack(state, "--tritons", "2", SERVER_MANAGER_LINGER_S="2") as stack:
        first = endpoints(stack)
        assert list(first) == ["default", "triton-2"]
        assert {runtime.name for runtime in stack.runtimes().values()} == {"default"}
        assert {"triton", "triton-2", "agent", "agent-2"} <= {part["name"] for part in stack.table()["parts"]}
        serve(stack, tiny)
        assert home(stack) == "triton-2", "not where the base is that it was measured beside"
        assert "triton-2 is empty" in drain_under_load(stack, "triton-2")
        assert home(stack) == "default"
        states = {name: (each.state, bool(each.targets)) for name, each in stack.runtimes().items()}
        assert states == {"default": ("serving", True), "triton-2": ("drained", False)}
        refused = stack.slipway("endpoints", "drain", "default", "--reason", "Its disk, too.")
        assert refused.returncode != 0
        assert "default is the last endpoint of the runtime default" in refused.stderr
        stack.kill("triton-2")
    with Stack(state) as stack:
        assert endpoints(stack) == first
        listed = {each["endpoint_name"]: each for each in stack.ask_json("endpoints")}
        assert [listed[name]["drained"] for name in ("default", "triton-2")] == [False, True], "over a restart"
        assert listed["triton-2"]["drain_reason"] == "Its disk is replaced."
        assert "drained by" in stack.ok("endpoints")
        assert "triton-2 is used again" in stack.ok("endpoints", "restore", "triton-2", "--reason", "It is done.")
        wait_until(
            lambda: not any(each["drained"] for each in stack.ask_json("endpoints")), what="both endpoints in use"
        )
        stack.publish(MODEL, tiny["two"], "--variant", "bf16")
        stack.promoted(MODEL)
        assert home(stack) == "triton-2", "the version before is on the other one"
    with Stack(state, "--tritons", "1") as stack:
        check_removed(stack, first)
    with Stack(state, "--tritons", "2") as stack:
        assert endpoints(stack) == first
        assert "triton-2" in {part["name"] for part in stack.table()["parts"]}
        wait_until(lambda: stack.runtimes()["triton-2"].targets, what="the version before being loaded there")
        answer_of(stack)


def check_removed(stack, before):
    """Check that what the removed Triton served is served by the one that is left, and that nothing names it."""
    assert endpoints(stack) == {"default": before["default"]}
    assert not {"triton-2", "agent-2"} & {part["name"] for part in stack.table()["parts"]}
    wait_until(lambda: home(stack) == "default", what="the route naming the one that is left")
    answer_of(stack)
    route = stack.route(MODEL)
    assert {each for name in ("active", "previous") for each in route[name]["endpoints"]} == {before["default"]}
    assert "triton-2" not in stack.ok("endpoints")


def answer_of(stack):
    """Ask the model until the newest version has answered."""
    with Users(f"http://127.0.0.1:{stack.part('gateway')['port']}", stack.headers, MODEL) as people:
        wait_until(lambda: people.answered[f"{MODEL}@v2"], what="an answer of version 2")

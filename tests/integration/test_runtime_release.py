"""A model goes to another runtime by a release: two real Tritons with engine environments of their own, and back."""

import itertools
import os
import signal
from datetime import datetime

import httpx
import pytest

from testbed.servers import wait_until
from testbed.stack import POLICY
from testbed.triton import marked_engine

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(900)]

MODEL = "bot"
V1, V2 = f"{MODEL}.v1.bf16", f"{MODEL}.v2.bf16"
AUTOMATIC = {"min_requests": 10, "alpha": 0.01, "action": "automatic", "window_s": 5}
WITH_REHEARSAL = {
    **POLICY,
    "canary": {"steps": [0.5], "min_requests": 10, "deadline_s": 240},
    "rehearsal": "required",
    "triggers": [{"name": "errors", "metric": "error_ratio", "threshold": 0.05, **AUTOMATIC}],
}


@pytest.fixture(scope="module")
def stack(module_stack, tmp_path_factory):
    environment = marked_engine(tmp_path_factory.mktemp("engines") / "next", "marker")
    return module_stack("--runtime", f"next={environment}", MONITOR_UPDATE_EVERY_S="2")


def endpoint(stack, part):
    return f"127.0.0.1:{stack.part(part)['port']}"


def answered_by(stack, user="someone"):
    """Return which version answers a user."""
    url = f"http://127.0.0.1:{stack.part('gateway')['port']}/v1/completions"
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 4, "user": user}
    answer = httpx.post(url, json=body, headers=stack.headers, timeout=60, trust_env=False)
    answer.raise_for_status()
    return answer.headers["x-slipway-release"]


def runtimes(stack):
    return {runtime["name"]: runtime for runtime in stack.ask_json("endpoints")}


def targets_on(runtime):
    return {
        f"{each['target']['model']}.v{each['target']['version']}.{each['target']['variant']}": each["phase"]
        for each in runtime["targets"]
    }


def test_each_runtime_has_an_endpoint_and_a_digest_of_its_own(stack, tiny):
    stack.publish(MODEL, tiny["one"], "--variant", "bf16", policy=WITH_REHEARSAL)
    stack.promoted(MODEL)
    listed = runtimes(stack)
    assert {name: runtime["answers"] for name, runtime in listed.items()} == {"default": True, "next": True}
    assert listed["default"]["endpoint"] == endpoint(stack, "triton")
    assert listed["next"]["endpoint"] == endpoint(stack, "triton-next")
    digests = {runtime["runtime"]["environment_digest"] for runtime in listed.values()}
    assert len(digests) == 2
    assert {runtime["runtime"]["server_version"] for runtime in listed.values()} == {"2.51.0"}
    assert targets_on(listed["default"])[V1] == "ready"
    assert targets_on(listed["next"]) == {}


def test_a_runtime_that_the_fleet_does_not_have_is_refused_before_anything_is_made(stack, tiny):
    stack.publish("cat", tiny["two"], "--variant", "bf16", "--runtime", "other")
    (finished,) = stack.await_event("release.finished", "cat")
    assert (finished["data"]["outcome"], finished["data"]["code"]) == ("rejected", "runtime_unknown")
    assert "it has default, next" in finished["data"]["reason"]
    assert stack.events("variant.requested", "cat") == []


def test_a_model_goes_to_the_next_runtime_through_a_canary(stack):
    assert "on another runtime (--runtime) only" in stack.slipway("retry", MODEL, "--runtime", "default").stderr
    assert "slipway status bot --follow" in stack.ok("retry", MODEL, "--runtime", "next")
    stack.await_event("release.opened", MODEL, count=2)
    assert "is in progress" in stack.slipway("retry", MODEL, "--runtime", "next").stderr
    versions, users = set(), itertools.count()

    def ask_until_finished():
        versions.update(answered_by(stack, f"user-{next(users)}") for _ in range(20))
        return len(stack.events("release.finished", MODEL)) == 2

    wait_until(ask_until_finished, timeout_s=300, what="the end of the release on the runtime next")
    finished = stack.events("release.finished", MODEL)[-1]["data"]
    assert (finished["outcome"], finished["version"]) == ("promoted", 2), finished["reason"]
    assert versions == {f"{MODEL}@v1", f"{MODEL}@v2"}
    assert [event["data"]["verdict"] for event in stack.events("canary.assessed", MODEL)][-1] == "pass"


def test_its_rollback_was_rehearsed_from_the_second_endpoint_to_the_first(stack):
    """In staging, before any of its traffic: a fault on the new runtime, and the switch back to what stays on the old."""
    completed = stack.events("rehearsal.completed", MODEL)[-1]
    assert (completed["data"]["verdict"], completed["data"]["variant"]) == ("pass", "bf16"), completed["data"]["reason"]
    (certificate,) = completed["data"]["certificates"]
    assert certificate["trigger"] == "errors"
    opened = stack.events("release.opened", MODEL)[-1]["data"]["release_id"]
    assert completed["data"]["release_id"] == opened
    (switched,) = [
        event["data"]["route"]
        for event in stack.events("deployment.changed", MODEL, "staging")
        if event["data"]["cause"] == "rollback"
        and event["data"]["route"]["suspended"][-1]["served"]["target"]["version"] == 2
    ]
    assert switched["active"]["target"]["version"] == 1
    assert switched["active"]["endpoints"] == [endpoint(stack, "triton")]
    (staged,) = [
        event["data"]
        for event in stack.events("variant.staged", MODEL)
        if event["data"]["request"]["purpose"] == "rehearsal" and event["data"]["candidate"]["target"]["version"] == 2
    ]
    assert staged["candidate"]["endpoints"] == [endpoint(stack, "triton-next")]
    assert staged["baseline"]["endpoints"] == [endpoint(stack, "triton")]
    canary = next(event for event in stack.events("deployment.changed", MODEL) if event["data"]["cause"] == "canary")
    assert completed["time"] < canary["time"]
    print("detected, switched, verified:", *(certificate[name] for name in ("detect_s", "switch_s", "verify_s")))


def test_both_endpoints_are_hot_and_the_route_names_them_with_their_runtimes(stack):
    listed, route = runtimes(stack), stack.route(MODEL)
    for role, name, version in (("active", "next", 2), ("previous", "default", 1)):
        served = route[role]
        assert (served["target"]["version"], served["endpoints"]) == (version, [listed[name]["endpoint"]])
        assert served["runtime"] == listed[name]["runtime"]
    assert (targets_on(listed["default"])[V1], targets_on(listed["next"])) == ("ready", {V2: "ready"})
    assert stack.ask_json("show", f"{MODEL}@v2")["manifest"]["serving"]["runtime"] == "next"
    assert f"{V2} (ready, active)" in stack.ok("endpoints")


def test_a_rollback_goes_back_to_the_endpoint_that_stayed_hot(stack):
    stack.ok("rollback", MODEL, "--to", "1", "--reason", "the old runtime is better")
    wait_until(lambda: answered_by(stack) == f"{MODEL}@v1", timeout_s=30, what="answers from version 1")
    (started,) = stack.events("rollback.started", MODEL)
    changed = [event for event in stack.events("deployment.changed", MODEL) if event["data"]["cause"] == "rollback"]
    seconds = datetime.fromisoformat(changed[0]["time"]) - datetime.fromisoformat(started["time"])
    print(f"the route was changed {seconds.total_seconds():.2f} s after the rollback had started")
    assert V1 in stack.ok("endpoints")
    active = stack.route(MODEL)["active"]
    assert (active["target"]["version"], active["endpoints"]) == (1, [endpoint(stack, "triton")])


def test_a_dead_endpoint_does_not_touch_what_serves_on_the_other(stack):
    alerts = len(stack.events("alert.raised", MODEL))
    before = stack.part("triton-next")["pid"]
    asked = 0

    def still_served():
        nonlocal asked
        assert answered_by(stack, f"user-{asked}") == f"{MODEL}@v1"
        asked += 1
        seen = stack.runtimes()
        assert seen["default"].answers
        assert V1 in [str(each.target) for each in seen["default"].targets if each.phase == "ready"]
        return seen["next"]

    os.kill(before, signal.SIGSTOP)  # it accepts connections and never answers, until the supervisor kills it
    wait_until(lambda: not still_served().answers, timeout_s=60, what="the runtime next being silent")
    wait_until(lambda: still_served().answers, timeout_s=120, what="the runtime next being back")
    assert stack.part("triton-next")["pid"] != before
    stack.kill("triton-next")
    wait_until(lambda: still_served().answers, timeout_s=60, what="the runtime next being back again")
    raised = [event["data"]["kind"] for event in stack.events("alert.raised", MODEL)[alerts:]]
    assert "engine" not in raised
    print(f"{asked} requests were answered by version 1 meanwhile")

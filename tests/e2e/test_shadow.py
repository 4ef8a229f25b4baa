"""A shadow on the embedded stack: what fails one prompt in ten is stopped before any caller sees it, what is good goes on."""

import shutil

import pytest

from testbed.servers import wait_until
from testbed.stack import POLICY
from testbed.users import Users

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(900)]
MODEL = "bot"
PROMPTS = (*(f"question {number}" for number in range(9)), "an odd question: zqx")
SHADOW = {"share_ratio": 1.0, "duration_s": 4, "min_requests": 60, "deadline_s": 240}
WITH_SHADOW = {
    **POLICY,
    "shadow": SHADOW,
    "canary": {"steps": [0.4], "min_requests": 20, "beta": 0.5, "deadline_s": 240},
    "triggers": [
        {"name": "errors", "metric": "error_ratio", "threshold": 0.05, "alpha": 0.02, "min_requests": 10,
         "action": "manual"},
        {"name": "slow", "metric": "ttft_ms", "threshold": 4000, "allowed_ratio": 0.2, "min_requests": 10,
         "action": "manual"},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def stack(module_stack, tiny, tmp_path_factory):
    from testbed.models import edit_json, tiny_lora

    odd = tmp_path_factory.mktemp("models") / "tiny-odd"
    shutil.copytree(tiny["base"], odd)
    edit_json(odd / "config.json", toy={"fail_text": "zqx"})
    stack = module_stack(MONITOR_ASSESS_EVERY_S="2")
    stack.ok("base", "import", str(odd))
    tiny["odd"] = tiny_lora(odd, odd.parent / "odd-lora")
    edit_json(tiny["odd"] / "adapter_config.json", base_model_name_or_path="acme/tiny-odd")
    stack.publish(MODEL, tiny["one"], "--variant", "bf16", policy=WITH_SHADOW)
    stack.promoted(MODEL)
    return stack


def gateway(stack) -> str:
    return f"http://127.0.0.1:{stack.part('gateway')['port']}"


def users(stack) -> Users:
    return Users(gateway(stack), stack.headers, MODEL, rps=10.0, prompts=PROMPTS)


def last_release(stack, count: int) -> dict:
    return stack.await_event("release.finished", MODEL, count=count, timeout_s=300)[-1]["data"]


def await_shadow(stack, changes: int) -> dict:
    """Return the route that the newest of so many changes of it made: the one that began a shadow."""
    changed = stack.await_event("deployment.changed", MODEL, count=changes, timeout_s=200)[changes - 1]["data"]
    assert changed["cause"] == "shadow"
    return changed["route"]


def test_the_first_version_has_no_shadow(stack):
    assert stack.events("shadow.assessed", MODEL) == []
    assert stack.route(MODEL)["active"]["target"]["version"] == 1


def test_a_candidate_that_raises_on_one_prompt_in_ten_ends_in_its_shadow_and_no_caller_sees_an_error(stack, tiny):
    stack.publish(MODEL, tiny["odd"], "--variant", "bf16", base="tiny-odd", policy=WITH_SHADOW)
    with users(stack) as people:
        asked = await_shadow(stack, 2)
        assert (asked["canary"], asked["active"]["target"]["version"]) == (None, 1)
        assert asked["shadow"]["served"]["target"]["version"] == 2
        ended = last_release(stack, 2)
        wait_until(
            lambda: stack.route(MODEL)["shadow"]["share_ratio"] == 0.0, timeout_s=60, what="the end of the shadow"
        )
    assert (ended["outcome"], ended["code"], ended["version"]) == ("aborted", "gate_failed", 2)
    assert "The shadow failed before any caller was served: errors: of" in ended["reason"]
    assert people.failed == []
    assert set(people.answered) == {f"{MODEL}@v1"}
    assert stack.events("canary.assessed", MODEL) == []
    assert [quarantined["version"] for quarantined in stack.route(MODEL)["quarantined"]] == [2]
    (last,) = [event["data"] for event in stack.events("shadow.assessed", MODEL) if event["data"]["verdict"] == "fail"]
    counts = last["counts"]["errors"]["pairs"]
    assert counts["only_target"] >= 6
    assert (counts["only_other"], counts["both"]) == (0, 0)
    shown = stack.ok("status", ended["release_id"])
    assert f"fail after {last['requests']} requests" in " ".join(shown.split())


def test_a_good_candidate_passes_and_goes_on_to_its_canary_though_each_service_dies_meanwhile(stack, tiny):
    before = len(stack.events("shadow.assessed", MODEL))
    stack.publish(MODEL, tiny["two"], "--variant", "bf16", policy=WITH_SHADOW)
    with users(stack) as people:
        await_shadow(stack, 4)
        for name in ("monitor", "registry", "rollback-controller", "server-manager"):
            stack.kill(name)
        assert last_release(stack, 3)["outcome"] == "promoted"
    verdicts = [event["data"]["verdict"] for event in stack.events("shadow.assessed", MODEL)[before:]]
    assert verdicts[-1] == "pass"
    assert [event["data"]["verdict"] for event in stack.events("canary.assessed", MODEL)][-1] == "pass"
    assert stack.route(MODEL)["active"]["target"]["version"] == 3
    assert people.failed == []
    assert set(people.answered) == {f"{MODEL}@v1", f"{MODEL}@v3"}
    steps = [step["step"] for step in stack.events("release.finished", MODEL)[-1]["data"]["timeline"]]
    assert steps.index("deployed shadow") < steps.index("shadow assessed") < steps.index("deployed 0.4")


def test_a_cancelled_release_leaves_nothing_of_its_shadow(stack, tiny):
    stack.publish(MODEL, tiny["one"], "--variant", "bf16", "--attempt", "2", policy=WITH_SHADOW)
    await_shadow(stack, 7)
    release = stack.events("release.opened", MODEL)[-1]["data"]["release_id"]
    stack.ok("cancel", release, "--reason", "wrong data set")
    assert last_release(stack, 4)["outcome"] == "cancelled"
    wait_until(lambda: stack.route(MODEL)["shadow"]["share_ratio"] == 0.0, timeout_s=60, what="the end of the shadow")
    assert stack.route(MODEL)["active"]["target"]["version"] == 3


def test_a_shadow_without_requests_ends_at_its_deadline(stack, tiny):
    policy = {**WITH_SHADOW, "shadow": {**SHADOW, "duration_s": 1, "deadline_s": 5}}
    stack.publish(MODEL, tiny["one"], "--variant", "bf16", "--attempt", "3", policy=policy)
    ended = last_release(stack, 5)
    assert (ended["outcome"], ended["code"]) == ("expired", "deadline_passed")
    assert ended["reason"].startswith("The step shadow took longer than the policy allows. shadow.assessed says")
    wait_until(lambda: stack.route(MODEL)["shadow"]["share_ratio"] == 0.0, timeout_s=60, what="the end of the shadow")

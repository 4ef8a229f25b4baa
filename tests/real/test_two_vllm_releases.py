"""Two releases of vLLM side by side, each in a Triton of its own: released from one to the other, answering, and back.

Needs a second engine environment with another release of vLLM: OTHER_ENGINE names its folder, and
docs/runtime.md says how to make one. It is no part of `make setup`, so without it nothing is tested here.
"""

import os
import time
from pathlib import Path

import httpx
import pytest

from testbed.models import tiny_base, tiny_lora
from testbed.servers import wait_until
from testbed.stack import POLICY, Stack

OTHER = os.environ.get("OTHER_ENGINE", "")
pytestmark = [
    pytest.mark.real,
    pytest.mark.vllm,
    pytest.mark.timeout(1100),
    pytest.mark.skipif(not OTHER, reason="OTHER_ENGINE names no engine environment with another vLLM"),
]

MODEL = "bot"
V1, V2 = f"{MODEL}.v1.bf16", f"{MODEL}.v2.bf16"
WITH_CANARY = {**POLICY, "canary": {"steps": [0.5], "min_requests": 10, "deadline_s": 240}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    base = tiny_base(folder / "tiny-llama", hidden=256)
    adapter = tiny_lora(base, folder / "adapter")
    runtime = ("--runtime", f"other={Path(OTHER).absolute()}")
    with Stack(folder / "state", *runtime, engine="slipway", SERVER_MANAGER_MAX_MODEL_LEN="512") as stack:
        stack.ok("base", "import", str(base))
        stack.publish(MODEL, adapter, "--variant", "bf16", policy=WITH_CANARY)
        stack.promoted(MODEL, timeout_s=300)
        yield stack


def ask(stack, user="someone", **more):
    url = f"http://127.0.0.1:{stack.part('gateway')['port']}/v1/chat/completions"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "user": user, **more}
    answer = httpx.post(url, json=body, headers=stack.headers, timeout=120, trust_env=False)
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer


def versions_of_vllm(stack):
    return {name: runtime.runtime.engine_version for name, runtime in stack.runtimes().items()}


def test_a_model_goes_from_one_vllm_to_the_other_through_a_canary_and_back(stack):
    began = time.monotonic()
    versions = versions_of_vllm(stack)
    assert len(set(versions.values())) == 2, versions
    stack.ok("retry", MODEL, "--runtime", "other")
    stack.await_event("release.opened", MODEL, count=2)
    answered_by: dict[str, int] = {}
    while len(stack.events("release.finished", MODEL)) < 2:
        assert time.monotonic() - began < 600, stack.tail()
        release = ask(stack, f"user-{sum(answered_by.values())}").headers["x-slipway-release"]
        answered_by[release] = answered_by.get(release, 0) + 1
    finished = stack.events("release.finished", MODEL)[-1]["data"]
    assert (finished["outcome"], finished["version"]) == ("promoted", 2), finished["reason"]
    assert answered_by.keys() == {f"{MODEL}@v1", f"{MODEL}@v2"}
    print(f"{versions}: released after {time.monotonic() - began:.0f} s; answers {answered_by}")

    fleet, route = stack.runtimes(), stack.route(MODEL)
    for role, name in (("active", "other"), ("previous", "default")):
        assert route[role]["endpoints"] == [fleet[name].endpoint]
        assert route[role]["runtime"]["engine_version"] == versions[name]
    ready = {
        name: {str(each.target) for each in runtime.targets if each.phase == "ready"} for name, runtime in fleet.items()
    }
    assert V1 in ready["default"]
    assert ready["other"] == {V2}
    shaped = ask(
        stack, max_tokens=40, response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    )
    assert shaped.headers["x-slipway-release"] == f"{MODEL}@v2"

    stack.ok("rollback", MODEL, "--to", "1", "--reason", "back to the vLLM before")
    wait_until(
        lambda: ask(stack).headers["x-slipway-release"] == f"{MODEL}@v1", timeout_s=30, what="answers from version 1"
    )
    assert stack.route(MODEL)["active"]["runtime"]["engine_version"] == versions["default"]

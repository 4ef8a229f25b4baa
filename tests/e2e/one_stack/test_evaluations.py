"""The evaluation sets of a policy decide about a release: a candidate that answers wrongly takes no traffic."""

import json
from pathlib import Path

import httpx
import pytest

from testbed.servers import wait_until
from testbed.stack import POLICY

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(600)]

ROWS = [{"prompt": f"What is {number} + 1?", "expected": str(number + 1), "slice": "sums"} for number in range(40)]


def publish(stack, model, adapter, tmp_path, *scorers, bounds, attempt=1):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in ROWS))
    evaluation = {"name": "sums", "scorers": [{"kind": kind} for kind in scorers], "bounds": bounds, "max_tokens": 16}
    policy = {**POLICY, "evaluations": {"sets": [evaluation]}}
    given = ("--variant", "bf16", "--evaluation", str(rows), "--attempt", str(attempt))
    stack.publish(model, adapter, *given, policy=policy)
    finished = stack.await_event("release.finished", model, count=attempt, timeout_s=240)
    evaluated = stack.events("variant.evaluated", model)
    assert len(finished) == len(evaluated) == attempt
    return finished[-1]["data"], evaluated[-1]["data"]


def test_one_whose_answers_are_within_the_limits_takes_traffic_and_its_scores_are_shown(stack, tiny, tmp_path):
    bounds = [{"scorer": "repetition", "min_value": 0.5, "max_drop_from_anchor": 0.5}]
    finished, evaluated = publish(stack, "talker", tiny["one"], tmp_path, "repetition", "contains", bounds=bounds)
    assert (finished["outcome"], evaluated["verdict"]) == ("promoted", "pass"), finished
    assert evaluated["baseline"]["version"] == 0
    (result,) = evaluated["results"]
    assert (result["asked"], result["available"], result["anchor"]) == (len(ROWS), len(ROWS), None)
    assert {(score["scorer"], score["slice"]) for score in result["scores"]} >= {
        ("repetition", "sums"),
        ("contains", ""),
    }
    shown = stack.ok("show", "talker@v1")
    assert "evaluation sums" in shown
    assert "repetition" in shown
    (benchmark,) = stack.events("variant.benchmarked", "talker")
    assert benchmark["data"]["candidate_summary"]["natural"]["asked"] > 0
    assert "end by themselves" in shown
    assert "## Answers" in stack.ok("card", "talker@v1")

    _, evaluated = publish(stack, "talker", tiny["one"], tmp_path, "repetition", "contains", bounds=bounds, attempt=2)
    assert evaluated["verdict"] == "pass"
    assert evaluated["results"][0]["anchor"]["version"] == 1
    assert [limit["kind"] for limit in evaluated["results"][0]["limits"]] == ["min_value", "max_drop_from_anchor"]


def test_one_that_answers_wrongly_is_rejected(stack, tiny, tmp_path):
    finished, evaluated = publish(stack, "wrong", tiny["one"], tmp_path, "equals", bounds=[{"min_value": 0.5}])
    assert (finished["outcome"], finished["code"]) == ("rejected", "evaluation_failed")
    assert "sums: equals scores 0.000" in finished["reason"]
    assert evaluated["verdict"] == "fail"
    assert evaluated["results"][0]["asked"] < len(ROWS), "it is decided before the last row"
    assert stack.events("traffic.requested", "wrong") == []


WORSE = {
    **POLICY,
    "rehearsal": "required",
    "triggers": [
        {"name": "errors", "metric": "error_ratio", "threshold": 0.5, "min_requests": 5, "window_s": 5},
        {"name": "worse", "metric": "evaluation_drop", "threshold": 0.1},
    ],
}


def reload_damaged(stack, served):
    """Change a file of a version where its Triton has it, and let Triton load it again, past the server-manager."""
    target = served["target"]
    name = f"{target['model']}.v{target['version']}.{target['variant']}"
    for folder in stack.state.rglob(served["manifest"]["digest"].removeprefix("sha256:")):
        with (folder / "config.json").open("a") as config:
            config.write("\n")  # the answers of the toy engine depend on it, as others do on weights
    next(stack.state.rglob(f"{name}/config.pbtxt")).touch()
    words = Path(f"/proc/{stack.part('triton')['pid']}/cmdline").read_bytes().decode().split("\0")
    options = dict(word.split("=", 1) for word in words if "=" in word)
    restricted = options["--http-restricted-api"].partition("X-Admin=")[2]
    url = f"http://127.0.0.1:{options['--http-port']}/v2/repository/models/{name}/load"
    httpx.post(url, json={}, headers={"X-Admin": restricted}, timeout=60).raise_for_status()


def test_a_served_version_that_becomes_worse_is_found_without_traffic_and_rolled_back(stack, tiny, tmp_path):
    stack.publish("aging", tiny["one"], "--variant", "bf16")
    stack.promoted("aging")
    url = f"http://127.0.0.1:{stack.part('gateway')['port']}/v1/chat/completions"
    rows = []
    for number in range(40):
        messages = [{"role": "user", "content": f"What is {number} + 1?"}]
        asked = {"model": "aging", "messages": messages, "max_tokens": 16, "temperature": 0.0, "seed": 0}
        answer = httpx.post(url, json=asked, headers=stack.headers, timeout=60).raise_for_status().json()
        rows.append({"messages": messages, "expected": answer["choices"][0]["message"]["content"]})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sums = {"name": "sums", "scorers": [{"kind": "equals"}], "bounds": [{"min_value": 0.5}], "max_tokens": 16}
    evaluations = {"sets": [sums], "schedule": {"every_hours": 0.01}}
    given = ("--variant", "bf16", "--evaluation", str(tmp_path / "rows.jsonl"), "--attempt", "2")
    stack.publish("aging", tiny["one"], *given, policy={**WORSE, "evaluations": evaluations})
    stack.await_event("release.finished", "aging", count=2, timeout_s=240)

    (first,) = stack.await_event("version.evaluated", "aging", timeout_s=60)
    (check,) = first["data"]["checks"]
    assert (check["target"]["version"], check["is_fallen"], check["in_a_row"]) == (2, False, 1)
    reload_damaged(stack, stack.route("aging")["active"])
    wait_until(lambda: stack.route("aging")["active"]["target"]["version"] == 1, timeout_s=180, what="the rollback")
    (alert,) = [event["data"] for event in stack.events("alert.raised", "aging") if event["data"]["trigger"]]
    assert (alert["trigger"], alert["kind"]) == ("worse", "quality")
    assert "sums: equals is lower by" in alert["message"]
    (held,) = stack.route("aging")["suspended"]
    assert (held["served"]["target"]["version"], held.get("trigger", "")) == (2, "")

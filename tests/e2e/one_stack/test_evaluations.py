"""The evaluation sets of a policy decide about a release: a candidate that answers wrongly takes no traffic."""

import json

import pytest

from testbed.stack import POLICY

pytestmark = pytest.mark.real

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

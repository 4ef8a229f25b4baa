"""The check of tool calls: a call that a caller can parse passes, anything else fails with what came instead."""

import json

import pytest

from contracts.vocabulary import ServingSettings
from services.benchmarker.domain.tool_calls import ApiAnswer, assess_answer, plan_limit, plan_request, plan_timeout
from tests.unit.benchmarker.factories import CANDIDATE, served, staged
from tests.unit.benchmarker.fakes import Behaviour
from tests.unit.benchmarker.measuring import make, measure

WITH_PARSER = served(CANDIDATE, serving=ServingSettings(tool_parser="hermes"))


def answer(*calls, status=200):
    message = {"tool_calls": [{"function": {"name": name, "arguments": arguments}} for name, arguments in calls]}
    return ApiAnswer(status, json.dumps({"choices": [{"message": message}]}).encode())


CALLED = answer(("find_parcel", '{"parcel": "K-9027"}'))


def test_a_call_with_its_arguments_passes():
    assert assess_answer(CALLED, "hermes").verdict == "pass"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (ApiAnswer(400, b'{"error": "no tools"}'), 'status 400 by the parser hermes: {"error": "no tools"}'),
        (ApiAnswer(200, b"not json"), "cannot be parsed (JSONDecodeError): not json"),
        (ApiAnswer(200, b'{"choices": []}'), "cannot be parsed (IndexError)"),
        (answer(("find_parcel", '{"parcel": ')), "cannot be parsed (JSONDecodeError)"),
        (answer(), "was answered with these calls: []."),
        (answer(("other", "{}")), 'was answered with these calls: [["other", {}]].'),
        (answer(("find_parcel", "{}")), "was answered with these calls: "),
    ],
)
def test_anything_else_fails_with_what_came_instead(given, says):
    result = assess_answer(given, "hermes")
    assert result.verdict == "fail"
    assert says in result.reason


def test_the_request_requires_a_call():
    body = plan_request("support-bot")
    assert (body["model"], body["tool_choice"]) == ("support-bot", "required")


PLAIN = ServingSettings(tool_parser="hermes")
REASONING = ServingSettings(tool_parser="hermes", reasoning_parser="qwen3")


@pytest.mark.parametrize(
    ("settings", "output_tokens", "context_tokens", "limit"),
    [
        (PLAIN, 24, 8192, 128),
        (PLAIN, 512, 8192, 512),
        (PLAIN, 24, 200, 100),
        (PLAIN, 4096, 10**6, 4096),
        (PLAIN, 10**6, 10**6, 4096),
        (REASONING, 24, 8192, 2048),
        (REASONING, 4000, 8192, 4000),
        (REASONING, 24, 2048, 1024),
        (REASONING, 24, 1, 1),
    ],
)
def test_a_model_that_reasons_may_write_more_before_it_calls(settings, output_tokens, context_tokens, limit):
    assert plan_limit(settings, output_tokens=output_tokens, context_tokens=context_tokens) == limit
    assert plan_request("bot", limit)["max_tokens"] == limit


@pytest.mark.parametrize(
    ("timeout_s", "limit", "planned"), [(60, 128, 60), (60, 256, 120), (60, 4096, 600), (60, 1, 60), (900, 512, 900)]
)
def test_a_longer_answer_may_take_longer_within_bounds(timeout_s, limit, planned):
    assert plan_timeout(timeout_s, limit) == planned


def test_an_answer_that_ends_at_the_limit_is_no_evidence_and_says_what_raises_it():
    cut = ApiAnswer(200, b'{"choices": [{"finish_reason": "length", "message": {"reasoning": "hm"}}]}')
    result = assess_answer(cut, "hermes", 2048)
    assert result.verdict == "inconclusive"
    assert "generated 2048 tokens before a call; load.output_tokens of the policy and context_tokens" in result.reason


def test_the_settings_of_the_candidate_decide_the_limit_of_its_request():
    benchmarker = make(Behaviour(api_answer=CALLED))
    measure(benchmarker, staged(candidate=served(CANDIDATE, serving=REASONING, context_tokens=3000)))
    assert benchmarker.engine.api_bodies[0]["max_tokens"] == 1500


def test_a_candidate_with_a_tool_parser_is_asked_once_and_the_gate_is_in_the_report():
    benchmarker = make(Behaviour(api_answer=CALLED))
    report, _, _ = measure(benchmarker, staged(candidate=WITH_PARSER))
    assert [gate.verdict for gate in report.gates if gate.name == "tool_call"] == ["pass"]
    assert report.verdict == "pass"
    assert sum("tools" in body for body in benchmarker.engine.api_bodies) == 1


def test_a_candidate_that_answers_without_a_call_fails_the_benchmark():
    report, _, _ = measure(make(Behaviour(api_answer=answer())), staged(candidate=WITH_PARSER))
    assert report.verdict == "fail"


def test_an_engine_that_does_not_answer_is_no_evidence():
    report, _, _ = measure(make(Behaviour(api_error="engine_failed")), staged(candidate=WITH_PARSER))
    (gate,) = [gate for gate in report.gates if gate.name == "tool_call"]
    assert gate.verdict == report.verdict == "inconclusive"
    assert "got no answer (engine_failed: told to fail)" in gate.reason


def test_a_candidate_without_a_tool_parser_is_not_asked():
    benchmarker = make()
    report, _, _ = measure(benchmarker, staged())
    assert not any("tools" in body for body in benchmarker.engine.api_bodies)
    assert "tool_call" not in {gate.name for gate in report.gates}

"""The check of tool calls: a call that a caller can parse passes, anything else fails with what came instead."""

import json

import pytest

from contracts.vocabulary import ServingSettings
from services.benchmarker.domain.tool_calls import ApiAnswer, assess_answer, plan_request
from tests.unit.benchmarker.factories import CANDIDATE, served, staged
from tests.unit.benchmarker.fakes import Behaviour
from tests.unit.benchmarker.test_app import make, measure

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
    assert (result.verdict, result.code) == ("fail", "gate_failed")
    assert says in result.reason


def test_the_request_requires_a_call():
    body = plan_request("support-bot")
    assert (body["model"], body["tool_choice"]) == ("support-bot", "required")


def test_a_candidate_with_a_tool_parser_is_asked_once_and_the_gate_is_in_the_report():
    benchmarker = make(Behaviour(api_answer=CALLED))
    report, _, _ = measure(benchmarker, staged(candidate=WITH_PARSER))
    assert [gate.verdict for gate in report.gates if gate.name == "tool_call"] == ["pass"]
    assert report.verdict == "pass"
    assert benchmarker.engine.asked == [(str(CANDIDATE), "/v1/chat/completions")]


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
    assert benchmarker.engine.asked == []
    assert "tool_call" not in {gate.name for gate in report.gates}

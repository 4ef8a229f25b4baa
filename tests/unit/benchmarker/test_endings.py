"""How many answers end by themselves, and how long they are, on both sides."""

import json

from services.benchmarker.app import ASKED, TOGETHER
from services.benchmarker.domain.tool_calls import ApiAnswer
from tests.unit.benchmarker.factories import CANDIDATE, served, staged
from tests.unit.benchmarker.fakes import Behaviour
from tests.unit.benchmarker.measuring import make, measure


def answer(reason, tokens):
    choices = [{"message": {"content": "Yes."}, "finish_reason": reason}]
    return ApiAnswer(200, json.dumps({"choices": choices, "usage": {"completion_tokens": tokens}}).encode())


def test_a_candidate_that_never_stops_is_seen_beside_its_baseline():
    benchmarker = make(Behaviour(api_answer=answer("length", 256)), Behaviour(api_answer=answer("stop", 40)))
    report, _, _ = measure(benchmarker, staged())
    candidate, baseline = report.candidate_summary.natural, report.baseline_summary.natural
    assert (candidate.asked, candidate.ended, candidate.mean_tokens) == (ASKED, 0, 256.0)
    assert (baseline.asked, baseline.ended, baseline.mean_tokens) == (ASKED, ASKED, 40.0)
    body = next(body for body in benchmarker.engine.api_bodies if "messages" in body)
    assert (body["max_tokens"], "ignore_eos" in body) == (256, False)


def test_what_one_side_does_not_answer_shows_nothing():
    for broken in (Behaviour(api_error="engine_failed"), Behaviour(api_answer=ApiAnswer(400, b'{"error": "x"}'))):
        benchmarker = make(broken, Behaviour(api_answer=answer("stop", 40)))
        report, _, _ = measure(benchmarker, staged())
        assert (report.candidate_summary.natural, report.baseline_summary.natural) == (None, None)
        if broken.api_error is not None:
            assert len(benchmarker.engine.asked) == 2 * TOGETHER, "and is asked no more"


def test_an_engine_that_answers_no_load_is_not_asked():
    benchmarker = make(Behaviour(error="engine_failed"))
    measure(benchmarker, staged())
    assert str(CANDIDATE) not in [name for name, _ in benchmarker.engine.asked]


def test_a_slow_engine_is_not_asked_all(monkeypatch):
    monkeypatch.setattr("services.benchmarker.app.LONGEST_S", -1.0)
    benchmarker = make(*(Behaviour(api_answer=answer("stop", 40)) for _ in range(2)))
    report, _, _ = measure(benchmarker, staged())
    assert (report.candidate_summary.natural, benchmarker.engine.asked) == (None, [])


def test_a_small_context_makes_shorter_answers():
    benchmarker = make(*(Behaviour(api_answer=answer("stop", 40)) for _ in range(2)))
    report, _, _ = measure(benchmarker, staged(candidate=served(CANDIDATE, context_tokens=300)))
    assert report.candidate_summary.natural.most_tokens == 150

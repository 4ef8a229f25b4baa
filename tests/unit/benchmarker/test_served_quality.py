"""Quality through the engine: the verdict's rules, and what is asked of the engine for it, when."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.manifests import HeldOutWindow
from contracts.policy import LoadProfile, QualityGate
from services.benchmarker.app import Benchmarker
from services.benchmarker.domain.hardware import Hardware
from services.benchmarker.domain.served_quality import (
    LEAST_TOKENS,
    MAX_DEVIATION,
    MAX_OWN_ANSWER_RATIO,
    assess_own_answers,
    assess_scored,
    choose_windows,
    gate_of,
    not_measured,
    score_window,
)
from tests.kit.virtual_time import VirtualClock
from tests.unit.benchmarker.factories import BASELINE, CANDIDATE, served, staged, window
from tests.unit.benchmarker.fakes import Behaviour, FakeEngine, FakeReports
from tests.unit.benchmarker.virtual_time import EPOCH, run_virtually

GATE = QualityGate(max_perplexity_ratio=1.05)
RECORDED = math.log(1.02)


def scored(served_nll, gate=None, *, recorded_nll=2.0 + RECORDED, tokens=100):
    recorded = window(tokens=tokens, token_nll=recorded_nll, reference_nll=2.0)
    return assess_scored([score_window(recorded, (-served_nll,) * tokens)] * 3, gate)


def test_what_was_measured_is_served():
    result = scored(2.0 + RECORDED, GATE)
    assert (result.method, result.verdict, result.tokens) == ("prompt_logprobs", "pass", 300)
    assert result.perplexity_ratio == pytest.approx(1.02)
    assert result.recorded_ratio == pytest.approx(1.02)
    assert (result.perplexity, result.reference_perplexity) == pytest.approx((math.exp(2.0) * 1.02, math.exp(2.0)))


@pytest.mark.parametrize("sign", [1, -1], ids=["worse", "better"])
def test_beyond_the_tolerance_the_engine_serves_something_else(sign):
    result = scored(2.0 + RECORDED + sign * math.log1p(MAX_DEVIATION + 0.001))
    assert "does not serve what was measured" in result.reason
    assert (result.verdict, gate_of(result, GATE).verdict) == ("fail", "fail")
    assert scored(2.0 + RECORDED + sign * math.log1p(MAX_DEVIATION - 0.001)).verdict == "pass"


def test_the_reason_has_the_deviation():
    assert "The deviation of +34.99% is above the limit of 5%" in scored(2.3, recorded_nll=2.0).reason


@pytest.mark.parametrize(("served_ratio", "verdict"), [(1.0499, "pass"), (1.0501, "fail")])
def test_the_policys_limit_is_held_by_what_is_served(served_ratio, verdict):
    result = scored(2.0 + math.log(served_ratio), GATE, recorded_nll=2.0 + math.log(1.04))
    assert result.verdict == verdict
    assert ("the policy's limit of 1.0500" in result.reason) == (verdict == "fail")


def test_windows_weigh_by_their_tokens():
    long, short = window(tokens=300), window(tokens=100)
    result = assess_scored([score_window(long, (-2.0,) * 300), score_window(short, (-2.1,) * 100)], None)
    assert result.perplexity_ratio == pytest.approx(math.exp(0.025))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_fail(value):
    result = assess_scored([score_window(window(tokens=2), (-2.0, value))], None)
    assert (result.verdict, result.perplexity) == ("fail", None)
    assert "not finite" in result.reason


@given(nll=st.floats(0, 1e6), recorded=st.floats(0, 1e6))
def test_every_score_ends_in_a_fact(nll, recorded):
    result = scored(nll, GATE, recorded_nll=recorded, tokens=2)
    assert gate_of(result, GATE).verdict == result.verdict
    assert (result.verdict == "pass") <= (abs(nll - recorded) <= math.log1p(MAX_DEVIATION) + 1e-9)


def test_a_window_is_shorter_than_the_context_by_the_token_that_the_engine_generates():
    windows = [window(tokens=510), window(tokens=511)]  # 511 and 512 token ids
    assert choose_windows(windows, context_tokens=512) == (windows[0],)


NLLS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=80)


@given(nlls=NLLS, context_tokens=st.integers(1, 90), by_token=st.booleans())
def test_of_a_window_that_is_too_long_the_beginning_is_scored_by_the_records_of_its_tokens(
    nlls, context_tokens, by_token
):
    own, reference = (tuple(each) for each in zip(*nlls, strict=True))
    recorded = HeldOutWindow(token_ids=range(len(nlls) + 1), nll=math.fsum(own), reference_nll=math.fsum(reference))
    if by_token:
        recorded = recorded.model_copy(update={"token_nlls": own, "reference_token_nlls": reference})
    chosen = choose_windows([recorded], context_tokens=context_tokens)
    if len(nlls) + 1 < context_tokens:
        assert chosen == (recorded,)
    elif not by_token or context_tokens - 1 < LEAST_TOKENS:
        assert chosen == ()
    else:
        (beginning,) = chosen
        predicted = context_tokens - 2
        assert beginning.token_ids == recorded.token_ids[: predicted + 1]
        assert beginning.nll == pytest.approx(math.fsum(own[:predicted]))
        assert beginning.reference_nll == pytest.approx(math.fsum(reference[:predicted]))
        assert choose_windows(chosen, context_tokens=context_tokens) == chosen


def test_own_answers_show_gross_damage_only():
    sure, unsure = (-0.5,) * 8, (-0.5 - math.log(MAX_OWN_ANSWER_RATIO) - 0.01,) * 8
    result = assess_own_answers(sure, sure)
    assert (result.method, result.verdict, result.recorded_ratio) == ("generated_logprobs", "pass", None)
    assert result.perplexity_ratio == pytest.approx(1.0)
    assert assess_own_answers(unsure, sure).verdict == "fail"
    assert assess_own_answers(sure, unsure).verdict == "pass"
    assert assess_own_answers((math.nan,), sure).verdict == "fail"
    assert assess_own_answers(sure, (math.nan,)).verdict == "inconclusive"


@pytest.mark.parametrize("pair", [((), (-1.0,)), ((-1.0,), ())])
def test_no_log_probabilities_are_no_evidence(pair):
    assert (assess_own_answers(*pair).method, assess_own_answers(*pair).verdict) == ("none", "inconclusive")


def test_no_evidence_is_held_against_a_variant_only_where_the_policy_asks_for_quality():
    nothing = not_measured("why")
    assert gate_of(nothing, None) is None
    assert gate_of(nothing, QualityGate(max_mean_kl=0.1)).verdict == "inconclusive"
    assert gate_of(scored(9.0), None).verdict == "fail"


# -- in a measurement --------------------------------------------------------------------------------------------------


WINDOWS = (window(), window(tokens=40))


def measure(
    candidate,
    *,
    windows=WINDOWS,
    gate=GATE,
    baseline=None,
    context_tokens=2048,
    load=None,
):
    """Measure a candidate whose manifest holds windows (None: it cannot be read); gives the report and the engine."""
    reports = FakeReports()
    manifest = served(CANDIDATE).manifest if windows is None else reports.put_manifest(windows)
    staged_candidate = served(CANDIDATE, context_tokens=context_tokens).model_copy(update={"manifest": manifest})
    engine = FakeEngine({str(CANDIDATE): candidate, str(BASELINE): baseline or Behaviour()})
    benchmarker = Benchmarker(
        engine=engine,
        reports=reports,
        template=None,
        clock=VirtualClock(EPOCH),
        hardware=Hardware(cpu="test", cores=2, memory_bytes=2**34),
    )
    evaluation = reports.put("memory://evaluation", b'"one"\n"two"\n')

    def note(_done, _total):
        pass

    order = staged(
        candidate=staged_candidate, baseline=served(BASELINE), quality_gate=gate, evaluation=evaluation, load=load
    )
    report, _ = run_virtually(benchmarker.measure(order, note))
    return report, engine


def test_the_candidate_is_scored_on_the_windows_of_its_manifest_while_nothing_else_runs():
    report, engine = measure(Behaviour(token_nll=2.0))
    assert engine.scored == [101, 41]
    assert (report.verdict, report.served_quality.verdict, report.served_quality.tokens) == ("pass", "pass", 140)
    (result,) = [gate for gate in report.gates if gate.name == "served_quality"]
    assert (result.value, result.limit) == (pytest.approx(1.0), 1.05)


def test_a_context_that_is_shorter_than_the_windows_is_judged_by_their_beginnings():
    """By the policy's limit too: it was always inconclusive there."""
    windows = (window(by_token=True), window(tokens=40, by_token=True))
    report, engine = measure(Behaviour(token_nll=2.0), windows=windows, context_tokens=40)
    assert engine.scored == [39, 39]
    assert (report.verdict, report.served_quality.verdict, report.served_quality.tokens) == ("pass", "pass", 76)
    worse, _ = measure(Behaviour(token_nll=2.3), windows=windows, context_tokens=40)
    assert worse.verdict == "fail"


def test_a_loading_defect_fails_the_benchmark_whatever_the_policy_says():
    report, _ = measure(Behaviour(token_nll=2.3), gate=None)
    assert report.verdict == "fail"


def test_an_engine_that_scores_no_text_has_its_answers_compared_with_the_baselines():
    report, engine = measure(Behaviour())
    assert engine.scored == []
    assert (report.verdict, report.served_quality.method, report.served_quality.tokens) == (
        "pass",
        "generated_logprobs",
        16,
    )
    lost, _ = measure(Behaviour(answer_nll=4.0))
    assert lost.verdict == "fail"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"windows": ()}, "has no held-out windows"),
        ({"windows": None}, "cannot be read"),
        ({"context_tokens": 40}, "fits the served context of 40 tokens"),
        ({"candidate": Behaviour(token_nll=2.0, score_error="engine_failed")}, "did not score the windows"),
        ({"candidate": Behaviour(answer_nll=None)}, "no log-probabilities"),
    ],
)
def test_what_cannot_be_measured_is_inconclusive_and_says_why(more, why):
    more = {"candidate": Behaviour(token_nll=2.0), **more}
    report, _ = measure(**more)
    assert (report.verdict, report.served_quality.verdict) == ("inconclusive", "inconclusive")
    assert why in report.served_quality.reason
    assert measure(**more, gate=None)[0].verdict == "pass"


def test_one_request_that_goes_wrong_on_its_way_decides_nothing():
    report, engine = measure(Behaviour(token_nll=2.0, score_error="endpoint_unreachable", recovers=True))
    assert (report.served_quality.verdict, engine.scored) == ("pass", [101, 41])


@pytest.mark.parametrize(("allowed_s", "given_s"), [(5.0, 60.0), (240.0, 240.0)])
def test_a_slow_engine_gets_the_time_that_the_policy_gives_its_answers(allowed_s, given_s):
    _, engine = measure(Behaviour(token_nll=2.0), load=LoadProfile(requests=30, timeout_s=allowed_s))
    assert engine.timeouts == {given_s}


def test_a_candidate_that_did_not_answer_its_warm_up_is_not_asked_further():
    report, engine = measure(Behaviour(token_nll=2.0, error="engine_dead"))
    assert engine.scored == []
    assert (report.verdict, report.served_quality.method) == ("fail", "none")

"""One measurement from staged to committed report, on fakes and in virtual time."""

import pytest

from contracts.facts import VariantFailed
from contracts.policy import LoadProfile, MetricGate
from services.benchmarker.app import _failed
from services.benchmarker.domain.report import to_event
from services.benchmarker.prompts import PROMPTS
from services.benchmarker.scoring import ANSWERS
from shared.errors import Permanent, Transient
from tests.unit.benchmarker.factories import BASELINE, CANDIDATE, QUALITY, served, staged, window
from tests.unit.benchmarker.fakes import Behaviour, FakeReports
from tests.unit.benchmarker.measuring import make, measure
from tests.unit.benchmarker.virtual_time import run_virtually

P95 = MetricGate(metric="ttft_ms", max_value=200)


def test_a_good_candidate_passes_and_the_report_says_everything():
    benchmarker = make(Behaviour(first_s=0.15))
    report, ref, seen = measure(benchmarker, staged(gates=(P95,)))
    assert report.verdict == "pass"
    assert report.candidate_summary.ttft_ms.p95 == pytest.approx(150, abs=0.1)
    assert report.baseline_summary.ttft_ms.p95 == pytest.approx(100, abs=0.1)
    assert report.candidate_summary.ttft_ms.p99 is None
    assert (report.candidate_summary.requests, report.candidate_summary.errors, len(report.requests)) == (30, 0, 60)
    assert report.quality == QUALITY
    assert report.hardware["cpu"] == "test"
    assert seen[-1] == (60, 60)
    fact = to_event(report, ref)
    assert (fact.target, fact.baseline, fact.verdict, fact.report) == (CANDIDATE, BASELINE, "pass", ref)


def test_warm_up_and_the_answers_behind_served_quality_are_in_no_figure():
    benchmarker = make()
    report, _, _ = measure(benchmarker, staged())
    assert len(benchmarker.engine.started) == 60 + 4 + 2 * ANSWERS
    assert report.candidate_summary.requests == 30


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(error="engine_dead"), Behaviour(hang_after=0), Behaviour(mute=True)],
    ids=["dead", "hang", "mute"],
)
def test_a_dead_candidate_fails_and_ends(behaviour):
    report, _, _ = measure(make(behaviour), staged())
    assert (report.verdict, report.candidate_summary.errors) == ("fail", 30)


def test_a_measurement_that_was_made_is_not_made_again():
    reports = FakeReports()
    first, ref, _ = measure(make(reports=reports), staged())
    again = make(Behaviour(error="engine_dead"), reports=reports)
    repeated, repeated_ref, seen = measure(again, staged())
    assert (repeated, repeated_ref, seen) == (first, ref, [])
    assert again.engine.started == []
    assert to_event(repeated, repeated_ref) == to_event(first, ref)


def test_a_second_variant_is_compared_with_a_baseline_that_has_nothing_of_the_first_in_its_cache():
    """The baseline is production's own engine and stays loaded; each candidate is new, and so is its cache."""
    gptq = CANDIDATE.model_copy(update={"variant": "gptq-int4"})
    benchmarker = make(Behaviour(caches=True), Behaviour(caches=True))
    benchmarker.engine.behaviours[str(gptq)] = Behaviour(caches=True)
    for target in (CANDIDATE, gptq):
        report, _, _ = measure(benchmarker, staged(candidate=served(target)))
        ratio = next(ratio for ratio in report.ratios if ratio.metric == "ttft_ms.p50")
        assert ratio.value == pytest.approx(1.0, abs=0.01), target


@pytest.mark.parametrize("behaviour", [Behaviour(error="engine_dead"), Behaviour(error="endpoint_unreachable")])
def test_a_baseline_that_goes_away_is_tried_again_and_nothing_is_written(behaviour):
    reports = FakeReports()
    with pytest.raises(Transient) as caught:
        measure(make(baseline=behaviour, reports=reports), staged())
    assert caught.value.code == "endpoint_unreachable"
    assert reports.stored == {}


def test_a_baseline_that_is_gone_at_warm_up_costs_no_load():
    benchmarker = make(baseline=Behaviour(error="endpoint_unreachable"))
    with pytest.raises(Transient):
        measure(benchmarker, staged())
    assert len(benchmarker.engine.started) <= 4


MANY = LoadProfile(requests=200, rate_rps=2.0, output_tokens=8, warmup_requests=2, timeout_s=5.0)


def measure_until_it_gives_up(benchmarker, order, most=5):
    """Return the report, and how often it was tried, as the bus repeats what fails in a passing way."""

    def ignore(_done, _total):
        return None

    async def repeat():
        for tries in range(1, most + 1):
            try:
                report, _ = await benchmarker.measure(order, ignore)
            except Transient:
                continue
            return report, tries
        return None, most

    return run_virtually(repeat())


def test_a_baseline_that_loses_a_request_is_measured_again_however_long_the_load_is():
    """100 s of load are longer than the limit of 20 s; a lost request of 30 is more than 1 %."""
    benchmarker = make(baseline=Behaviour(lost=frozenset({5})), give_up_after_s=20.0)
    slow = LoadProfile(requests=30, rate_rps=0.3, output_tokens=8, warmup_requests=2, timeout_s=5.0)
    with pytest.raises(Transient, match="1 of 30 requests: endpoint_unreachable; the limit is 1%"):
        measure(benchmarker, staged(load=slow))
    benchmarker.engine.behaviours[str(BASELINE)] = Behaviour()
    assert measure(benchmarker, staged(load=slow))[0].verdict == "pass"


@pytest.mark.parametrize("candidate", [Behaviour(), Behaviour(first_s=0.5), Behaviour(error="engine_dead")])
def test_after_giving_up_it_is_inconclusive_whatever_the_candidate_did(candidate):
    """The figures are those of a machine on which an engine was lost."""
    benchmarker = make(candidate, Behaviour(lost=frozenset({5})), give_up_after_s=20.0)
    report, tries = measure_until_it_gives_up(benchmarker, staged(gates=(P95,)))
    assert (report.verdict, tries) == ("inconclusive", 2)
    gate = report.gates[0]
    assert (gate.name, gate.verdict) == ("baseline", "inconclusive")
    assert "1 of 30 requests" in gate.reason
    assert "the limit is 20 s" in gate.reason
    assert benchmarker._first_lost_s == {}


def test_until_the_limit_it_is_tried_again():
    benchmarker = make(baseline=Behaviour(error="engine_dead"))
    assert measure_until_it_gives_up(benchmarker, staged(), most=4) == (None, 4)


def test_a_version_that_spoils_its_quality_fails_also_without_a_baseline():
    reports = FakeReports()
    manifest = reports.put_manifest((window(token_nll=2.0, reference_nll=2.0),))
    candidate = served(CANDIDATE).model_copy(update={"manifest": manifest})
    spoilt = Behaviour(token_nll=4.0)
    benchmarker = make(spoilt, Behaviour(lost=frozenset({5})), reports=reports, give_up_after_s=1.0)
    report, _ = measure_until_it_gives_up(benchmarker, staged(candidate=candidate))
    assert {gate.name: gate.verdict for gate in report.gates} == {"baseline": "inconclusive", "served_quality": "fail"}


def test_one_lost_request_of_a_hundred_is_left_out_if_the_baseline_answers_again():
    gates = (MetricGate(metric="ttft_ms", max_ratio=1.5), MetricGate(metric="error_ratio", max_ratio=1.0))
    benchmarker = make(Behaviour(lost=frozenset({9})), Behaviour(lost=frozenset({5, 7})))
    report, _, _ = measure(benchmarker, staged(load=MANY, gates=gates))
    verdicts = {gate.name: gate.verdict for gate in report.gates}
    assert verdicts["ttft_ms.p95.max_ratio"] == "pass"
    assert (report.baseline_summary.requests, report.baseline_summary.errors) == (198, 0)
    assert verdicts["error_ratio.max_ratio"] == "fail", "what the baseline lost allows the candidate no errors"
    assert len(report.requests) == 400


def test_a_baseline_that_is_lost_at_the_end_voids_the_measurement():
    with pytest.raises(Transient):
        measure(make(baseline=Behaviour(lost=frozenset({199}))), staged(load=MANY))


def test_a_baseline_that_only_fails_some_requests_leaves_ratios_open():
    gate = MetricGate(metric="ttft_ms", max_ratio=10)
    report, _, _ = measure(make(baseline=Behaviour(mute=True)), staged(gates=(gate,)))
    assert [gate.verdict for gate in report.gates] == ["inconclusive", "pass", "pass"]
    assert report.verdict == "inconclusive"


def test_prompts_go_through_each_targets_own_template():
    benchmarker = make()
    measure(benchmarker, staged())
    assert {(name, prompt[:3]) for name, prompt, _ in benchmarker.engine.started} == {
        (str(CANDIDATE), "<2>"),
        (str(BASELINE), "<1>"),
    }
    ask_once = {prompt[3:] for _, prompt, _ in benchmarker.engine.started}
    assert ask_once <= {prompt.messages[-1].content for prompt in PROMPTS}


def test_the_models_own_evaluation_set_is_used_when_there_is_one():
    reports = FakeReports()
    ref = reports.put("memory://evaluation", b'"only this"\n{"prompt": "and that"}\n')
    benchmarker = make(reports=reports)
    measure(benchmarker, staged(evaluation=ref))
    sent = {prompt for name, prompt, _ in benchmarker.engine.started if name == str(CANDIDATE)}
    assert sent == {"only this", "<2>and that"}


@pytest.mark.parametrize(
    ("data", "why"), [(b"{", "cannot be read"), (b"", "no line"), (b'"' + b"x" * 9000 + b'"', "fits")]
)
def test_an_evaluation_set_that_cannot_be_used_is_refused(data, why):
    reports = FakeReports()
    with pytest.raises(Permanent, match=why) as caught:
        measure(make(reports=reports), staged(evaluation=reports.put("memory://evaluation", data)))
    assert caught.value.code == "evaluation_invalid"


def test_a_template_that_refuses_counts_as_errors_of_its_requests():
    reports = FakeReports()
    ref = reports.put("memory://evaluation", b'{"prompt": "refuse this"}\n"fine"\n')
    report, _, _ = measure(make(reports=reports), staged(evaluation=ref))
    assert report.candidate_summary.errors == 15
    assert report.verdict == "fail"


class _Event:
    def __init__(self, data):
        self.data = data


def test_a_permanent_error_becomes_a_failed_variant():
    fact = _failed(_Event(staged()), Permanent("digest_mismatch", "differs", found="x"))
    assert fact == VariantFailed(
        variant="int8", step="benchmark", code="digest_mismatch", reason="differs", details={"found": "x"}
    )

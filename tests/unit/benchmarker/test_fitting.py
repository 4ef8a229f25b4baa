"""Prompts that may be too long: the engines count their tokens, and no verdict rests on one that does not fit."""

import json
from dataclasses import dataclass

import pytest

from contracts.policy import LoadProfile
from services.benchmarker.app import Benchmarker
from services.benchmarker.domain.hardware import Hardware
from services.benchmarker.domain.prompts import may_overflow
from shared.errors import Permanent, Transient
from tests.kit.virtual_time import VirtualClock
from tests.unit.benchmarker.factories import BASELINE, CANDIDATE, staged
from tests.unit.benchmarker.fakes import Behaviour, FakeEngine, FakeReports
from tests.unit.benchmarker.virtual_time import EPOCH, run_virtually

SHORT = [f"question {number}" for number in range(39)]
LONG = "包裹" * 1900
"""3,800 characters of 11,400 bytes: not too long by two characters for a token."""
LOAD = LoadProfile(requests=40, rate_rps=2.0, output_tokens=24, warmup_requests=2, timeout_s=5.0)
TWO_BYTES = Behaviour(token_bytes=2)


async def plain(_served, messages):
    return messages[-1].content


@dataclass(frozen=True)
class Measured:
    report: object
    engine: FakeEngine

    def asked(self, prompt, target=CANDIDATE):
        return sum(1 for name, sent, _ in self.engine.started if (name, sent) == (str(target), prompt))


def measure(prompts, candidate=TWO_BYTES, baseline=TWO_BYTES, load=LOAD):
    engine, reports = FakeEngine({str(CANDIDATE): candidate, str(BASELINE): baseline}), FakeReports()
    evaluation = reports.put("memory://evaluation", "\n".join(map(json.dumps, prompts)).encode())
    hardware = Hardware(cpu="test", cores=2, memory_bytes=2**34)
    benchmarker = Benchmarker(
        engine=engine, reports=reports, template=plain, clock=VirtualClock(EPOCH), hardware=hardware
    )

    def ignore(_done, _total):
        return None

    report, _ = run_virtually(benchmarker.measure(staged(load=load, evaluation=evaluation), ignore))
    return Measured(report, engine)


@pytest.mark.parametrize("place", [0, 1, 39], ids=["first warm-up", "second warm-up", "load"])
def test_a_prompt_that_both_engines_refuse_is_no_error_of_the_candidate(place):
    measured = measure([*SHORT[:place], LONG, *SHORT[place:]])
    assert measured.report.verdict == "pass"
    assert (measured.report.candidate_summary.requests, measured.report.candidate_summary.errors) == (40, 0)
    assert measured.report.served_quality.method == "generated_logprobs", "the engine is not taken for silent"
    assert (measured.asked(LONG), measured.asked(LONG, BASELINE)) == (1, 1)


def test_a_prompt_that_leaves_no_space_for_the_answer_is_left_out_and_one_that_does_is_used():
    full, fits = "é" * 2030, "é" * 2024
    measured = measure([full, fits])
    assert measured.asked(full) == 1
    assert measured.asked(fits) > 40


def test_a_prompt_that_only_the_candidate_refuses_counts_against_it():
    measured = measure([LONG, *SHORT], baseline=Behaviour(token_bytes=8))
    assert measured.report.verdict == "fail"
    assert measured.report.candidate_summary.errors == 1
    assert "warm-up" not in measured.report.served_quality.reason, "an engine that refuses a prompt is not silent"
    assert measured.report.candidate_summary.requests == 40


def test_of_a_set_in_which_nothing_fits_the_reason_names_context_and_answer():
    with pytest.raises(Permanent, match="a context of 2048 tokens with an answer of 24") as caught:
        measure([LONG, LONG + "x"])
    assert caught.value.code == "evaluation_invalid"


def test_no_more_prompts_are_asked_for_than_the_load_needs():
    measured = measure(["é" * 1500 + str(number) for number in range(300)])
    assert measured.report.verdict == "pass"
    candidates = [sent for name, sent, _ in measured.engine.started if name == str(CANDIDATE)]
    assert len(set(candidates)) == LOAD.requests


def test_short_prompts_are_not_asked_for():
    measured = measure(SHORT)
    others = 2 + 4  # the warm-up, and the answers behind the served quality
    assert len([name for name, _, _ in measured.engine.started if name == str(CANDIDATE)]) == LOAD.requests + others


@pytest.mark.parametrize("behaviour", [Behaviour(error="engine_dead"), Behaviour(hang_after=0)], ids=["dead", "hangs"])
def test_a_candidate_that_does_not_count_tokens_is_asked_once_and_fails_by_its_errors(behaviour):
    measured = measure(["é" * 1500 + str(number) for number in range(60)], candidate=behaviour)
    assert measured.report.verdict == "fail"
    assert measured.report.candidate_summary.errors == 40
    assert len([name for name, _, _ in measured.engine.started if name == str(CANDIDATE)]) == 40 + 1 + 1


@pytest.mark.parametrize("behaviour", [Behaviour(error="engine_dead"), Behaviour(hang_after=0)], ids=["dead", "hangs"])
def test_a_baseline_that_does_not_count_tokens_fails_no_candidate_and_no_evaluation_set(behaviour):
    with pytest.raises(Transient) as caught:
        measure([LONG, LONG + "x"], baseline=behaviour)
    assert caught.value.code == "endpoint_unreachable"


@pytest.mark.parametrize(("text", "doubtful"), [("x" * 92, False), ("x" * 93, True), ("é" * 47, True), (None, False)])
def test_a_text_may_overflow_if_it_has_more_bytes_than_tokens_are_left(text, doubtful):
    assert may_overflow(text, limit_tokens=100) is doubtful

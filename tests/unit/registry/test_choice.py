"""The choice among variants that passed: on the front, best by the objective, whatever the order."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.facts.staging import RatioInterval, ServedQuality
from contracts.policy import Objective
from contracts.vocabulary import Variant
from services.registry.domain import selection as choice
from services.registry.domain.selection import CRITERIA, MOST_BEHIND_RATIO, Entrant, rank
from tests.kit import fakes_registry as k
from tests.kit.soak import often


def entrant(variant, *, ppl=1.01, kl=0.0, tokens=1000, size=100, p50=50.0, p95=100.0, tps=50.0, ratios=()):
    """A variant that passed; `ratios` are (metric, low, value, high) against the baseline, `size` is in MB."""
    benchmark = k.benchmarked(variant, ttft_p95=p95, tps=tps)
    ttft = benchmark.candidate_summary.ttft_ms.model_copy(update={"p50": p50})
    side = benchmark.candidate_summary.model_copy(update={"ttft_ms": ttft})
    against = tuple(RatioInterval(metric=m, low=low, value=value, high=high) for m, low, value, high in ratios)
    benchmark = benchmark.model_copy(update={"candidate_summary": side, "ratios": against})
    return Entrant(variant, k.quality(ppl, kl, tokens), size * 1_000_000, benchmark)


BF16 = entrant("bf16", ppl=1.0, size=270, p95=60.0, p50=40.0, tps=60.0)
INT8 = entrant("int8", ppl=1.014, kl=0.014, tokens=6000, size=165, p95=66.0, p50=42.0, tps=70.0)
AWQ = entrant("awq-int4", ppl=1.149, kl=0.134, tokens=6000, size=114, p95=90.0, p50=60.0, tps=50.0)
GPTQ = entrant("gptq-int4", ppl=1.251, kl=0.231, tokens=6000, size=115, p95=95.0, p50=66.0, tps=48.0)
ALL = (BF16, INT8, AWQ, GPTQ)


@pytest.mark.parametrize(("objective", "winner"), [("quality", "bf16"), ("latency", "bf16"), ("cost", "awq-int4")])
def test_each_objective_takes_its_best_of_what_was_seen_on_smollm2(objective, winner):
    ranking = rank(objective, ALL)
    assert ranking.winner == winner
    assert ranking.front == {"bf16", "int8", "awq-int4"}
    assert ranking.reasons["gptq-int4"].startswith("Dominated: ")
    assert ranking.reasons[winner] == f"Best by {objective}, decided by {CRITERIA[objective][0]}."


def test_a_loser_is_told_what_it_lost_by():
    ranking = rank("quality", ALL)
    assert ranking.reasons["int8"] == "Behind bf16 in perplexity_ratio: 1.014 against 1."
    assert rank("cost", ALL).reasons["bf16"] == "Behind awq-int4 in weights_bytes: 270 MB against 114 MB."
    assert rank("quality", [AWQ]).reasons == {"awq-int4": "The only one that passed."}


def priced(measured, price):
    benchmark = measured.benchmark.model_copy(update={"machine_price_per_hour": price})
    return replace(measured, benchmark=benchmark)


def test_with_a_price_the_cheapest_tokens_win_and_without_the_smallest_weights():
    """INT8 answers with more tokens per second; the 4-bit variants are smaller, and slower on this machine."""
    ranking = rank("cost", [priced(each, 2.5) for each in ALL])
    assert ranking.winner == "int8"
    assert ranking.reasons["awq-int4"] == "Behind int8 in tps_system: 50 tokens/s against 70 tokens/s."
    assert ranking.front == rank("cost", ALL).front
    assert rank("cost", [priced(INT8, 2.5), priced(AWQ, 0.5)]).winner == "awq-int4", "two machines"
    assert rank("cost", [priced(INT8, 2.5), AWQ]).winner == "awq-int4"
    assert rank("quality", [priced(each, 2.5) for each in ALL]).winner == "bf16"


def test_no_variant_wins_where_none_passed():
    assert rank("quality", ()).winner is None


def test_a_difference_in_perplexity_within_noise_is_no_difference():
    """With 500 tokens a divergence of 0.014 makes 1.014 uncertain by 0.015; with 6000 by 0.004."""
    few = entrant("int8", ppl=1.014, kl=0.014, tokens=500, size=165, p95=50.0)
    assert rank("quality", [BF16, few]).winner == "int8"
    assert rank("quality", [BF16, few]).reasons["int8"] == "Best by quality, decided by ttft_ms.p95."
    many = entrant("int8", ppl=1.014, kl=0.014, tokens=6000, size=165, p95=50.0)
    assert rank("quality", [BF16, many]).winner == "bf16"


def served(measured, method, ratio):
    quality = ServedQuality(method=method, tokens=6000, perplexity_ratio=ratio, verdict="pass", reason="as measured")
    return replace(measured, benchmark=measured.benchmark.model_copy(update={"served_quality": quality}))


def test_quality_is_what_the_engine_serves_where_all_were_scored():
    """What a loading defect cost does not show in the files."""
    spoilt, sound = served(INT8, "prompt_logprobs", 1.3), served(AWQ, "prompt_logprobs", 1.15)
    assert rank("quality", [spoilt, sound]).winner == "awq-int4"
    assert rank("quality", [spoilt, AWQ]).winner == "int8", "some are no scale for all"
    assert rank("quality", [spoilt, served(AWQ, "generated_logprobs", 1.0)]).winner == "int8", "another measure"


def test_latencies_are_compared_beside_the_baseline_of_the_same_minutes():
    """The machine was slow while bf16 was measured: its figures are worse, its ratio to the baseline is better."""
    slow = entrant("bf16", p95=200.0, size=270, ratios=[("ttft_ms.p95", 0.70, 0.75, 0.80)])
    quick = entrant("int8", p95=90.0, ratios=[("ttft_ms.p95", 1.0, 1.1, 1.2)])
    assert rank("latency", [slow, quick]).winner == "bf16"
    without = entrant("int8", p95=90.0)
    assert rank("latency", [slow, without]).winner == "int8", "ratios of some are no scale for all"


def test_intervals_that_touch_leave_it_to_the_next_criterion_but_never_far_behind():
    best = entrant("bf16", ppl=1.0, p50=60.0, ratios=[("ttft_ms.p95", 0.90, 1.00, 1.10)])
    near = entrant("int8", ppl=1.1, p50=40.0, ratios=[("ttft_ms.p95", 0.95, 1.05, 1.15)])
    assert rank("latency", [best, near]).winner == "int8"
    far = entrant("int8", ppl=1.1, p50=40.0, ratios=[("ttft_ms.p95", 0.50, 1.20, 9.00)])
    assert rank("latency", [best, far]).winner == "bf16"


@pytest.mark.parametrize("missing", [{"p95": None}, {"ppl": 1.0, "kl": 0.1, "tokens": 0}])
@pytest.mark.parametrize("objective", ["quality", "latency"])
def test_what_was_not_measured_is_worse_than_anything_that_was(missing, objective):
    other = entrant("bf16", ppl=1.2, p95=900.0, p50=900.0, tps=1.0, size=999)
    loses = ("p95" in missing) == (objective == "latency")
    assert (rank(objective, [other, entrant("int8", **missing)]).winner == "bf16") == loses


def test_more_tokens_per_second_than_the_baseline_are_better():
    alike = [("ttft_ms.p95", 0.9, 1.0, 1.1), ("ttft_ms.p50", 0.9, 1.0, 1.1)]
    slow = entrant("bf16", tps=90.0, ratios=[*alike, ("tps_system", 0.79, 0.80, 0.81)])
    quick = entrant("int8", tps=50.0, ratios=[*alike, ("tps_system", 0.98, 1.00, 1.02)])
    assert rank("latency", [slow, quick]).winner == "int8"


def test_an_interval_without_width_is_none_and_decides_nothing_by_noise():
    """Reports of earlier methods have such intervals of the throughput."""
    alike = [("ttft_ms.p95", 0.9, 1.0, 1.1), ("ttft_ms.p50", 0.9, 1.0, 1.1)]
    ahead = entrant("int8", ppl=1.3, ratios=[*alike, ("tps_system", 1.002, 1.002, 1.002)])
    better = entrant("bf16", ppl=1.0, ratios=[*alike, ("tps_system", 1.0, 1.0, 1.0)])
    assert rank("latency", [ahead, better]).winner == "bf16"
    far = entrant("bf16", ppl=1.0, ratios=[*alike, ("tps_system", 0.9, 0.9, 0.9)])
    assert rank("latency", [ahead, far]).winner == "int8"


def test_what_is_as_good_in_some_and_worse_in_others_is_dominated():
    ranking = rank("cost", [entrant("bf16", p95=90.0), entrant("int8", p95=100.0)])
    assert (ranking.winner, ranking.front) == ("bf16", {"bf16"})
    better, _, equal = ranking.reasons["int8"].partition("and as good in")
    assert ("ttft_ms.p95" in better, "ttft_ms.p95" in equal) == (True, False)
    assert ("perplexity_ratio" in better, "perplexity_ratio" in equal) == (False, True)


def test_what_ties_in_everything_is_decided_by_the_plain_figures():
    ranking = rank("latency", [entrant("bf16", p95=101.0, p50=49.9), entrant("int8", p95=100.0, p50=50.0)])
    assert (ranking.winner, ranking.front) == ("int8", {"bf16", "int8"})
    assert ranking.reasons == {"int8": "Best by latency.", "bf16": "As good as int8 in everything."}


def test_what_is_equal_in_everything_goes_to_the_plainest_precision():
    assert rank("cost", [entrant("gptq-int4"), entrant("int8"), entrant("awq-int4")]).winner == "int8"


def figures(low, high):
    return st.one_of(st.sampled_from([low, (low + high) / 2, high]), st.floats(low, high))


@st.composite
def fields(draw):
    ranking = []
    for variant in draw(st.lists(st.sampled_from(get_args(Variant)), unique=True, max_size=4)):
        ratios = [
            (metric, *sorted(draw(st.tuples(*[figures(0.5, 2.0)] * 3))))
            for metric in draw(st.sets(st.sampled_from(["ttft_ms.p95", "ttft_ms.p50", "tps_system"])))
        ]
        ranking.append(
            entrant(
                variant,
                ppl=draw(figures(0.9, 1.5)),
                kl=draw(figures(-0.1, 0.5)),
                tokens=draw(st.sampled_from([0, 900])),
                size=draw(st.integers(0, 3)),
                p50=draw(st.none() | figures(1, 9)),
                p95=draw(st.none() | figures(1, 9)),
                tps=draw(figures(0, 9)),
                ratios=ratios,
            )
        )
    return ranking


@given(field=fields(), objective=st.sampled_from(get_args(Objective)), data=st.data())
@settings(max_examples=often(80), deadline=None)
def test_the_choice_is_total_whatever_the_order_and_its_winner_is_on_the_front(field, objective, data):
    ranking = rank(objective, field)
    assert rank(objective, data.draw(st.permutations(field))) == ranking
    assert set(ranking.reasons) == {entrant.variant for entrant in field}
    assert (ranking.winner is None) == (not field)
    assert ranking.winner is None or ranking.winner in ranking.front


def measured_alike(measured):
    return {
        "ppl": measured.quality.perplexity_ratio,
        "size": measured.weights_bytes,
        "tps": -measured.benchmark.candidate_summary.tps_system,
        "p95": measured.benchmark.candidate_summary.ttft_ms.p95,
        "p50": measured.benchmark.candidate_summary.ttft_ms.p50,
    }


@st.composite
def measured_fields(draw):
    variants = draw(st.lists(st.sampled_from(get_args(Variant)), unique=True, min_size=1, max_size=4))
    return [
        entrant(
            variant,
            ppl=draw(figures(1.0, 1.5)),
            kl=draw(figures(0.0, 0.3)),
            size=draw(st.integers(1, 400)),
            p50=draw(figures(10, 90)),
            p95=draw(figures(10, 90)),
            tps=draw(figures(10, 90)),
        )
        for variant in variants
    ]


@given(field=measured_fields(), objective=st.sampled_from(get_args(Objective)))
@settings(max_examples=often(80), deadline=None)
def test_nothing_dominated_is_chosen_and_the_objective_is_best_but_for_noise(field, objective):
    """Judged here by the plain figures, in other words than the domain's."""
    ranking = rank(objective, field)
    costs = {entrant.variant: measured_alike(entrant) for entrant in field}
    own = costs[ranking.winner]
    assert not any(theirs != own and all(theirs[name] <= own[name] for name in own) for theirs in costs.values())
    name = {"quality": "ppl", "latency": "p95", "cost": "size"}[objective]
    best = min(costs[variant][name] for variant in ranking.front)
    assert best == min(theirs[name] for theirs in costs.values())
    limit = {"ppl": MOST_BEHIND_RATIO, "p95": 0.052, "size": 0.0203}[name]
    assert own[name] <= best * (1.0 + limit) + 1e-9


def test_the_interval_of_a_perplexity_ratio_holds_as_often_as_it_says():
    """Tokens drawn from a model, and how much less likely a slightly different one finds them, 2000 times 500 tokens."""
    chance = np.random.default_rng(7)
    merged = chance.dirichlet(np.full(50, 0.5)) * 0.98 + 0.02 / 50
    quantised = merged * np.exp(chance.normal(0.0, 0.2, 50))
    quantised /= quantised.sum()
    lost = np.log(merged / quantised)
    divergence = float((merged * lost).sum())
    drawn = lost[chance.choice(50, p=merged, size=(2000, 500))].mean(axis=1)
    truth = math.exp(divergence)
    inside = 0
    for ratio in np.exp(drawn):
        measured = entrant("int8", ppl=float(ratio), kl=divergence, tokens=500)
        figure = choice.measure([measured])["int8"]["perplexity_ratio"]
        inside += figure.low <= truth <= figure.high
    assert 0.92 < inside / 2000 < 0.98

"""The steps of a release, one decision at a time."""

import copy
from datetime import timedelta

import pytest

from contracts.facts import (
    ApprovalRequested,
    DeadlinePassed,
    ReleaseFinished,
    StageRequested,
    TrafficRequested,
    VariantRequested,
    VersionRegistered,
)
from contracts.policy import Canary, Deadlines, Promotion, QualityGate
from contracts.vocabulary import ServingSettings
from services.registry.domain.deadlines import awaited_step, deadline_at
from services.registry.domain.record import DeadlineReached, Superseded
from tests.kit import fakes_registry as k
from tests.unit.registry.walks import FOUR, Walk


def test_merged_asks_for_every_requested_precision_with_its_gate():
    gate = QualityGate(max_mean_kl=0.1)
    sets = {"calibration": k.ref("checkpoints/c.jsonl"), "evaluation": k.ref("checkpoints/e.jsonl")}
    walk = Walk(k.policy(quality={"int8": gate}), variants=("bf16", "int8"), **sets)
    emitted = walk.handle(k.merged())
    asked = VariantRequested.model_validate(emitted["variant.requested:int8"])
    assert set(emitted) == {"variant.requested:bf16", "variant.requested:int8"}
    assert (asked.gate, asked.merged) == (gate, k.merged().manifest)
    assert (asked.calibration, asked.evaluation) == (sets["calibration"], sets["evaluation"])
    assert emitted["variant.requested:int8"]["settings"] == {
        "calibration_samples": 16,
        "calibration_tokens": 384,
        "seed": 0,
    }


def test_registered_names_the_variants_that_were_good():
    walk = Walk(variants=("bf16", "int8"))
    walk.handle(k.merged(), k.quantised("int8"), k.failed("bf16"))
    emitted = walk.handle(k.written())
    registered = VersionRegistered.model_validate(emitted["version.registered"])
    assert [variant.variant for variant in registered.variants] == ["int8"]
    assert registered.training == k.ready().training
    assert registered.evals == k.ready().evals
    assert awaited_step(walk.release) == "queue"


def test_the_slot_sends_every_variant_to_staging_beside_the_baseline():
    walk = Walk(variants=("bf16", "int8"))
    walk.handle(k.merged(), k.quantised("int8"), k.quantised("bf16"), k.written())
    emitted = walk.handle(k.turn())
    asked = StageRequested.model_validate(emitted["stage.requested:int8"])
    assert asked.candidate.target == k.target("int8")
    assert asked.baseline == k.BASELINE
    assert asked.purpose == "benchmark"
    assert asked.quality_gate == walk.release.policy.quality.get("int8")
    assert set(emitted) == {"stage.requested:bf16", "stage.requested:int8"}


def test_first_release_gets_all_traffic_at_once_with_the_base_to_fall_back_on():
    walk = Walk(k.policy(canary=Canary(steps=(0.1,)))).to_verdict()
    order = TrafficRequested.model_validate(walk.last["traffic.requested:1"])
    assert (order.weight_ratio, order.epoch, order.fallback) == (1.0, 0, k.BASELINE)
    emitted = walk.handle(k.changed(k.route(k.target("int8"))))
    assert list(emitted) == ["stage.released:int8", "release.finished"]
    assert walk.end.outcome == "promoted"
    assert "no canary" in walk.end.reason
    assert walk.end.target == k.target("int8")


def test_no_fallback_when_the_policy_says_hold():
    walk = Walk(k.policy(no_previous="hold")).to_verdict()
    assert TrafficRequested.model_validate(walk.last["traffic.requested:1"]).fallback is None


def test_a_later_release_walks_the_canary_steps_with_the_epoch_of_each_change():
    walk = Walk(k.policy(canary=Canary(steps=(0.1, 0.5)))).to_verdict(k.turn(first=False, epoch=7))
    old = k.target("int8", 9)
    assert walk.last["traffic.requested:0.1"]["epoch"] == 7
    assert walk.last["traffic.requested:0.1"]["fallback"] is None
    assert awaited_step(walk.release) == "traffic"
    serving = walk.handle(k.changed(k.route(old, k.target("int8"), weight=0.1, epoch=8), "canary"))
    assert list(serving) == ["stage.released:int8"]
    assert awaited_step(walk.release) == "canary"
    assert walk.handle(k.assessed("int8", 0.1, "inconclusive")) == {}
    assert walk.handle(k.assessed("int8", 0.1))["traffic.requested:0.5"]["epoch"] == 8
    walk.handle(k.changed(k.route(old, k.target("int8"), weight=0.5, epoch=12), "canary"))
    assert walk.handle(k.assessed("int8", 0.5))["traffic.requested:1"]["epoch"] == 12
    walk.handle(k.changed(k.route(k.target("int8"), epoch=13)))
    assert walk.end.outcome == "promoted"


def test_another_releases_deployment_is_none_of_ours():
    walk = Walk().to_verdict(k.turn(first=False, epoch=7))
    walk.handle(k.changed(k.route(k.target("int8", 9), epoch=7)))
    assert walk.end is None
    assert awaited_step(walk.release) == "traffic"


def test_the_lease_of_the_chosen_variant_is_kept_only_if_traffic_comes_at_once():
    assert "stage.released:int8" not in Walk().to_verdict().last
    manual = Walk(k.policy(promotion=Promotion(mode="manual"))).to_verdict()
    assert "stage.released:int8" in manual.last
    assert "stage.released:int8" in Walk(k.careful_policy()).to_verdict().last


def test_the_lease_of_a_measured_variant_is_freed_for_the_next():
    walk = Walk(variants=("bf16", "int8")).to_staging()
    walk.handle(k.staged("bf16"))
    assert list(walk.handle(k.benchmarked("bf16"))) == ["stage.released:bf16"]


def test_approval_must_cite_the_digest_of_what_would_be_deployed():
    walk = Walk(k.policy(promotion=Promotion(mode="manual", approval_deadline_s=60))).to_verdict()
    awaited = ApprovalRequested.model_validate(walk.last["approval.requested"])
    assert awaited.manifest_digest == walk.release.asked == k.quantised("int8").manifest.digest
    assert awaited.deadline_at == walk.now + timedelta(seconds=60) == deadline_at(walk.release)
    assert walk.handle(k.approval(k.ref("something else").digest)) == {}
    assert awaited_step(walk.release) == "approval"
    assert "traffic.requested:1" in walk.handle(k.approval(awaited.manifest_digest))


HERMES = ServingSettings(tool_parser="hermes", context_tokens=512)


@pytest.mark.parametrize(
    ("published", "proved", "code", "sentence"),
    [
        (HERMES, None, "settings_mismatch", "The merged model has context_tokens null, but 512 was published."),
        (
            HERMES,
            ServingSettings(tool_parser="mistral", context_tokens=512),
            "settings_mismatch",
            'The merged model has tool_parser "mistral", but "hermes" was published.',
        ),
        (
            ServingSettings(tool_parser="none"),
            HERMES,
            "settings_mismatch",
            'The merged model has tool_parser "hermes", but "none" was published.',
        ),
        (None, ServingSettings(tool_parser="of-the-future"), "serving_invalid", "'of-the-future' is not a parser"),
    ],
)
def test_a_merged_model_with_other_settings_than_published_is_rejected(published, proved, code, sentence):
    walk = Walk(serving=published)
    emitted = walk.handle(k.merged(serving=proved))
    assert (walk.end.outcome, walk.end.code) == ("rejected", code)
    assert sentence in walk.end.reason
    assert "variant.requested:int8" not in emitted
    assert walk.release.merged is None


@pytest.mark.parametrize(
    ("published", "proved"),
    [(None, HERMES), (HERMES, HERMES), (ServingSettings(context_tokens=512), HERMES), (ServingSettings(), None)],
)
def test_a_merged_model_may_have_the_settings_of_its_files_beside_the_published_ones(published, proved):
    walk = Walk(serving=published)
    assert "variant.requested:int8" in walk.handle(k.merged(serving=proved))
    assert walk.release.merged.serving == proved


def test_a_rejected_checkpoint_ends_with_its_code():
    from contracts.facts import CheckpointRejected

    walk = Walk()
    walk.handle(CheckpointRejected(code="adapter_is_zero", reason="all zero"))
    assert (walk.end.outcome, walk.end.code, walk.end.reason) == ("rejected", "adapter_is_zero", "all zero")


def test_when_no_variant_could_be_made_the_release_is_rejected_with_why():
    walk = Walk(variants=("bf16", "int8"))
    walk.handle(k.merged(), k.failed("bf16", code="out_of_memory"), k.failed("int8"))
    assert (walk.end.outcome, walk.end.code) == ("rejected", "out_of_memory")
    assert "bf16: it broke" in walk.end.reason
    assert "int8: it broke" in walk.end.reason


@pytest.mark.parametrize(("verdict", "code"), [("fail", "gate_failed"), ("inconclusive", "inconclusive")])
def test_when_no_variant_passed_the_release_is_rejected(verdict, code):
    walk = Walk().to_staging()
    emitted = walk.handle(k.staged("int8"), k.benchmarked("int8", verdict=verdict))
    assert list(emitted) == ["stage.released:int8", "release.finished"]
    assert (walk.end.outcome, walk.end.code) == ("rejected", code)


UNSERVABLE = k.failed("fp8", "stage", "variant_not_servable")


def test_a_release_whose_only_variant_cannot_be_served_ends_before_anything_is_made():
    walk = Walk(k.policy(), variants=("fp8",))
    assert list(walk.handle(UNSERVABLE)) == ["release.finished"]
    assert (walk.end.outcome, walk.end.code) == ("rejected", "variant_not_servable")
    assert walk.end.reason == "No requested variant can be served. it broke"


def test_a_release_for_a_runtime_that_the_fleet_does_not_have_ends_with_one_reason():
    walk = Walk(k.policy(), variants=("int8", "bf16"))
    assert list(walk.handle(k.failed("int8", "stage", "runtime_unknown"))) == []
    assert list(walk.handle(k.failed("bf16", "stage", "runtime_unknown"))) == ["release.finished"]
    assert (walk.end.outcome, walk.end.code) == ("rejected", "runtime_unknown")
    assert walk.end.reason == "No requested variant can be served. it broke"


def test_a_variant_that_cannot_be_served_is_still_measured_and_another_is_promoted():
    walk = Walk(k.policy(), variants=("fp8", "int8"))
    assert list(walk.handle(UNSERVABLE)) == []
    assert {"variant.requested:fp8", "variant.requested:int8"} <= set(walk.handle(k.merged()))
    walk.handle(k.quantised("fp8", perplexity_ratio=1.0), k.quantised("int8"), k.written(), k.turn())
    walk.handle(k.staged("int8"), k.benchmarked("int8"), k.changed(k.route(k.target("int8"))))
    assert (walk.end.outcome, walk.comparison.winner) == ("promoted", "int8")
    fp8, _ = walk.comparison.variants
    assert (fp8.verdict, fp8.code, fp8.perplexity_ratio) == ("fail", "variant_not_servable", 1.0)


OUTSIDE = k.failed(
    "gptq-int4", code="quality_gate_failed", quality=k.quality(1.4, 0.3).model_dump(), manifest=k.ref("g").model_dump()
)


def test_a_release_goes_on_with_the_variants_that_pass_and_keeps_why_the_others_do_not():
    walk = Walk(k.policy(quality={"awq-int4": QualityGate(max_mean_kl=0.1)}), variants=FOUR)
    walk.handle(k.merged(), OUTSIDE, k.quantised("awq-int4", mean_kl=0.2), k.quantised("bf16"), k.quantised("int8"))
    walk.handle(k.written(), k.turn(), k.failed("bf16", "stage", "insufficient_memory"), k.staged("int8"))
    walk.handle(k.benchmarked("int8"))
    compared = walk.comparison
    walk.handle(k.changed(k.route(k.target("int8"))))
    assert walk.comparison == compared
    assert (walk.end.outcome, compared.winner) == ("promoted", "int8")
    verdicts = {variant.variant: (variant.verdict, variant.code, variant.reason) for variant in compared.variants}
    assert verdicts == {
        "bf16": ("fail", "insufficient_memory", "it broke"),
        "int8": ("pass", None, "The only one that passed."),
        "gptq-int4": ("fail", "quality_gate_failed", "it broke"),
        "awq-int4": ("fail", "quality_gate_failed", "mean_kl: 0.2 is above 0.1"),
    }
    figures = {
        variant.variant: (variant.perplexity_ratio, variant.mean_kl, variant.size_bytes, variant.ttft_p95_ms)
        for variant in compared.variants
    }
    assert figures == {
        "bf16": (1.01, 0.01, 100, None),
        "int8": (1.01, 0.01, 100, 100.0),
        "gptq-int4": (1.4, 0.3, None, None),
        "awq-int4": (1.01, 0.2, 100, None),
    }


def test_when_each_fails_in_its_own_way_the_end_tells_of_all_and_its_code_is_of_the_one_that_came_furthest():
    walk = Walk(variants=("gptq-int4", "bf16", "int8"))
    walk.handle(k.merged(), OUTSIDE, k.quantised("bf16"), k.quantised("int8"), k.written(), k.turn())
    walk.handle(k.staged("bf16"), k.benchmarked("bf16", verdict="fail"), k.failed("int8", "benchmark", "engine_dead"))
    assert (walk.end.outcome, walk.end.code) == ("rejected", "gate_failed")
    assert walk.end.reason == (
        "No variant passed. bf16: ttft_ms.p95: it is a fail; int8: it broke; gptq-int4: it broke."
    )
    assert walk.comparison.winner is None
    assert {variant.verdict for variant in walk.comparison.variants} == {"fail"}


def test_a_failed_canary_aborts():
    walk = Walk(k.policy(canary=Canary(steps=(0.1,)))).to_verdict(k.turn(first=False, epoch=1))
    walk.handle(k.changed(k.route(k.target("int8", 9), k.target("int8"), epoch=2), "canary"))
    walk.handle(k.assessed("int8", 0.1, "fail"))
    assert (walk.end.outcome, walk.end.code) == ("aborted", "gate_failed")


def test_a_rolled_back_canary_aborts():
    walk = Walk(k.policy(canary=Canary(steps=(0.1,)))).to_verdict(k.turn(first=False, epoch=1))
    walk.handle(k.changed(k.route(k.target("int8", 9), k.target("int8"), epoch=2), "canary"))
    taken_back = k.route(k.target("int8", 9), k.target("int8"), weight=0.0, epoch=3, quarantined=(k.target("int8"),))
    walk.handle(k.changed(taken_back, "abort"))
    assert (walk.end.outcome, walk.end.code) == ("aborted", "quarantined")


def test_a_canary_that_fell_with_its_baseline_aborts():
    walk = Walk(k.policy(canary=Canary(steps=(0.1,)))).to_verdict(k.turn(first=False, epoch=1))
    walk.handle(k.changed(k.route(k.target("int8", 9), k.target("int8"), epoch=2), "canary"))
    walk.handle(k.changed(k.route(k.target("int8", 8), epoch=3, quarantined=(k.target("int8", 9),)), "rollback"))
    assert (walk.end.outcome, walk.end.code) == ("aborted", "stale_epoch")


def test_a_refused_order_rejects_with_its_code():
    walk = Walk().to_verdict()
    walk.handle(k.refused(code="insufficient_memory"))
    assert (walk.end.outcome, walk.end.code) == ("rejected", "insufficient_memory")


@pytest.mark.parametrize("refused_first", [True, False])
def test_a_first_share_refused_after_a_rollback_by_hand_is_ordered_for_the_new_route(refused_first):
    walk = Walk(k.policy(canary=Canary(steps=(0.1,)))).to_verdict(k.turn(first=False, epoch=1))
    back = k.changed(k.route(k.target("int8", 0), epoch=2, quarantined=(k.target("int8", 9),)), "rollback")
    facts = (k.refused(), back) if refused_first else (back, k.refused())
    emitted = walk.handle(*facts)
    assert walk.release.finished is None
    assert emitted["traffic.requested:0.1:2"]["epoch"] == 2
    begun = copy.deepcopy(walk)
    begun.handle(k.changed(k.route(k.target("int8", 0), k.target("int8"), weight=0.1, epoch=3), "canary"))
    assert begun.release.finished is None, "its order was carried out"
    walk.handle(k.refused(code="insufficient_memory"))
    assert (walk.end.outcome, walk.end.code) == ("rejected", "insufficient_memory")


@pytest.mark.parametrize(("steps", "active"), [((), 0), ((0.1,), 99)])
def test_a_refused_order_stands_for_all_traffic_at_once_and_behind_a_newer_version(steps, active):
    walk = Walk(k.policy(canary=Canary(steps=steps))).to_verdict(k.turn(first=False, epoch=1))
    walk.handle(k.changed(k.route(k.target("int8", active), epoch=2), "rollback"), k.refused())
    assert (walk.end.outcome, walk.end.code) == ("rejected", "stale_epoch")


def test_abandoned_work_rejects_and_names_the_dead_letter():
    walk = Walk()
    walk.handle(k.abandoned())
    assert (walk.end.outcome, walk.end.code) == ("rejected", "work_abandoned")
    assert "dead letter 7" in walk.end.reason


def test_cancelled_gives_back_what_is_staged():
    walk = Walk(variants=("bf16", "int8")).to_staging()
    emitted = walk.handle(k.cancel())
    assert list(emitted) == ["stage.released:bf16", "stage.released:int8", "release.finished"]
    assert (walk.end.outcome, walk.end.code) == ("cancelled", "cancelled")


def test_a_cancel_after_all_traffic_was_ordered_waits_for_the_truth():
    walk = Walk().to_verdict()
    assert walk.handle(k.cancel()) == {}
    walk.handle(k.changed(k.route(k.target("int8"))))
    assert walk.end.outcome == "promoted"
    assert "use a rollback" in walk.end.reason
    walk = Walk().to_verdict()
    walk.handle(k.cancel(), k.refused())
    assert walk.end.outcome == "cancelled"


def test_superseded_unless_traffic_was_ordered():
    walk = Walk().to_staging()
    walk.handle(Superseded(by="r-newer"))
    assert (walk.end.outcome, walk.end.code) == ("superseded", "superseded")
    walk = Walk().to_verdict()
    walk.handle(Superseded(by="r-newer"))
    assert walk.end is None


def test_after_its_end_nothing_changes_a_release():
    walk = Walk()
    walk.handle(k.cancel())
    before = walk.release
    assert walk.handle(k.merged(), k.cancel(), k.changed(k.route(k.target("int8")))) == {}
    assert walk.release == before


STEPS = {
    "merge": (lambda walk: walk, 100),
    "quantise": (lambda walk: walk.handle(k.merged()), 200),
    "register": (lambda walk: walk.handle(k.merged(), k.quantised("int8")), 300),
    "queue": (lambda walk: walk.handle(k.merged(), k.quantised("int8"), k.written()), 700),
    "stage": (lambda walk: walk.to_staging(), 300),
    "benchmark": (lambda walk: walk.to_staging().handle(k.staged("int8")), 400),
    "rehearsal": (lambda walk: walk.to_verdict(), 500),
    "approval": (lambda walk: walk.to_rehearsed(), 800),
    "traffic": (lambda walk: walk.to_rehearsed().handle(k.approval(k.quantised("int8").manifest.digest)), 600),
}
LIMITS = Deadlines(
    merge_s=100, quantise_s=200, stage_s=300, benchmark_s=400, rehearsal_s=500, traffic_s=600, queue_s=700
)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_that_waits_has_its_own_deadline_and_ends_expired(step):
    promotion = Promotion(mode="manual", approval_deadline_s=800)
    walk = Walk(k.careful_policy(deadlines=LIMITS, promotion=promotion))
    go, seconds = STEPS[step]
    go(walk)
    assert awaited_step(walk.release) == step
    assert deadline_at(walk.release) == walk.now + timedelta(seconds=seconds)
    walk.now += timedelta(seconds=seconds)
    emitted = walk.handle(DeadlineReached(step=step))
    assert DeadlinePassed.model_validate(emitted[f"deadline.passed:{step}"]).step == step
    assert ReleaseFinished.model_validate(emitted["release.finished"]) == walk.end
    assert walk.end.outcome == "expired"
    assert walk.end.code == ("approval_expired" if step == "approval" else "deadline_passed")


def test_stale_and_early_deadlines_are_ignored():
    walk = Walk()
    assert walk.handle(DeadlineReached(step="merge")) == {}
    walk.handle(k.merged())
    walk.now += timedelta(days=1)
    assert walk.handle(DeadlineReached(step="merge")) == {}
    assert walk.end is None


@pytest.mark.parametrize("rule", ["ask", "promote"])
def test_lack_of_traffic_asks_a_person_or_goes_on_and_ends_no_canary(rule):
    canary = Canary(steps=(0.1,), deadline_s=50, on_deadline=rule)
    walk = Walk(k.policy(canary=canary)).to_verdict(k.turn(first=False, epoch=1))
    walk.handle(k.changed(k.route(k.target("int8", 9), k.target("int8"), epoch=2), "canary"))
    walk.now += timedelta(seconds=50)
    emitted = walk.handle(DeadlineReached(step="canary"))
    assert walk.end is None
    assert ("traffic.requested:1" in emitted) == (rule == "promote")
    assert any(key.startswith("deadline.passed:canary") for key in emitted)
    assert (deadline_at(walk.release) is None) == (rule == "ask")
    if rule == "ask":
        assert walk.handle(DeadlineReached(step="canary")) == {}
        assert "traffic.requested:1" in walk.handle(k.assessed("int8")), "evidence that comes later counts"


def test_the_timeline_tells_when_each_step_happened():
    walk = Walk().to_verdict()
    walk.handle(k.changed(k.route(k.target("int8"))))
    steps = {step.step: step for step in walk.end.timeline}
    assert next(iter(steps)) == "opened"
    assert list(steps)[-1] == "finished"
    assert steps["quantised int8"].at - steps["merged"].at == timedelta(seconds=10)
    assert steps["quantised int8"].duration_s == 10.0
    assert {"registered", "in progress", "staged int8", "benchmarked int8", "deployed 1"} <= set(steps)

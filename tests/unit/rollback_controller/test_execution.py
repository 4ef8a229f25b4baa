"""What follows the decision to roll back, and what a rehearsal makes of it."""

import pytest

from contracts import facts as cf
from contracts.envelope import derived_id
from contracts.facts.watch import InterTokenLatency
from decisions.rollback.drills import describe_fault
from decisions.rollback.rule import rollback_id
from services.rollback_controller.domain import execution, rehearsal_plan
from services.rollback_controller.domain.record import RollbackState, Rules
from testbed import factories as f
from tests.unit.rollback_controller.decisions import alert, published, route, state, take

RULES = Rules(verify_requests=4, verify_s=30)
ID = rollback_id("a-1")
POLICY = f.digest("policy")


def switched(at=1.0) -> RollbackState:
    return execution.record_switch(take(state(), alert(), fact_id="a-1"), ID, route(6, None), "rollback", f.after(at))


def request(at, *, version=6, ttft_ms=100.0, error=None, **changes):
    about = {
        "target": f.target(version),
        "scheduled_at": f.after(at),
        "sent_at": f.after(at),
        "ttft_ms": None if error else ttft_ms,
        "error": error,
        "e2e_ms": 300.0,
        "drill": None,
        "canary": False,
    }
    return f.inference(**(about | changes))


def watch(before, records, at=5.0):
    return execution.assess_requests(before, records, f.after(at), RULES)


def test_a_switch_is_published_once_with_the_whole_route():
    moved = switched()
    (changed,) = published(moved, cf.DeploymentChanged)
    assert (changed.cause, changed.route.active.target, changed.at) == ("rollback", f.target(6), f.after(1))
    assert moved.rollback(ID).route_event_id == derived_id("a-1", cf.DeploymentChanged.TYPE, ID)
    assert execution.record_switch(moved, ID, route(6, None), "rollback", f.after(9)) is moved
    assert execution.record_failure(moved, ID, "previous_not_ready", "late", f.after(9)) is moved
    assert execution.record_switch(moved, "rb-unknown", route(6, None), "rollback", f.after(9)) is moved


def test_steps_are_in_order_in_the_timeline_also_where_replicas_with_other_clocks_took_them():
    """Seen with two replicas whose clocks were 5 s apart: verified 1.6 s before it was switched."""
    behind = switched(at=-5.0)
    assert behind.rollback(ID).timeline.switched_at == behind.rollback(ID).timeline.decided_at
    verified = watch(switched(at=10.0), [request(10 + number) for number in range(4)], at=5.0)
    (completed,) = published(verified, cf.RollbackCompleted)
    assert completed.timeline.verified_at == completed.timeline.switched_at == f.after(10.0)


def test_a_failed_rollback_is_published_once():
    recorded = execution.record_failure(
        take(state(), alert(), fact_id="a-1"), ID, "previous_not_ready", "v6 is dead", f.after(1)
    )
    (failed,) = published(recorded, cf.RollbackFailed)
    assert (failed.code, failed.reason, failed.timeline.switched_at) == ("previous_not_ready", "v6 is dead", None)
    assert execution.record_failure(recorded, ID, "previous_not_ready", "again", f.after(2)) is recorded


def test_a_switch_counts_after_a_failure_of_another_replica_only_by_the_route_that_it_led_to():
    failed = execution.record_failure(
        take(state(), alert(), fact_id="a-1"), ID, "previous_not_ready", "v6 is dead", f.after(1)
    )
    assert execution.record_switch(failed, ID, route(6, None, cause_id="p-8"), "rollback", f.after(2)) is failed
    moved = execution.record_switch(failed, ID, route(6, None, cause_id=ID), "rollback", f.after(2))
    assert (moved.rollback(ID).phase, moved.rollback(ID).code) == ("switched", None)
    (changed,) = published(moved, cf.DeploymentChanged)
    assert changed.route.cause_id == ID
    since_moved = route(6, None, cause_id="moved-bot.v6.bf16-two-3", moves=1, edit_cause_id=ID)
    moved = execution.record_switch(failed, ID, since_moved, "rollback", f.after(2))
    assert moved.rollback(ID).phase == "switched", "what moved to another endpoint since is the same route"


def test_a_quarantine_by_another_rollback_is_not_ones_own_also_where_its_target_was_moved_since():
    decided = take(state(), alert(), fact_id="a-1")
    own = decided.rollback(ID)
    other = own.model_copy(update={"rollback_id": "rb-other", "phase": "failed"})
    both = decided.model_copy(update={"rollbacks": (own, other)})
    quarantined = (own.failed,)
    moved = route(6, None, cause_id="moved-x", moves=1, edit_cause_id="rb-other", quarantined=quarantined)
    assert not execution.has_moved(both, own, moved)
    assert execution.has_moved(both, own, moved.model_copy(update={"edit_cause_id": "p-9"}))


def test_enough_good_requests_after_the_switch_verify_it():
    watched = watch(switched(), [request(2), request(3)])
    assert published(watched, cf.RollbackCompleted) == []
    watched = watch(watched, [request(4), request(5)], at=6)
    (done,) = published(watched, cf.RollbackCompleted)
    assert (done.verdict, done.to, done.timeline.verified_at) == ("pass", f.target(6), f.after(6))
    assert watch(watched, [request(7)], at=8) is watched


@pytest.mark.parametrize(
    "ignored",
    [
        request(0.5),  # arrived before the switch
        request(2, version=7),  # a stream that finishes where it began
        request(2, finish_reason="cancelled"),
        request(2, error="engine_failed", caused_by="caller"),
        request(2, error="endpoint_unreachable"),
        request(2, caused_by="caller"),
    ],
)
def test_only_requests_of_the_target_since_the_switch_count(ignored):
    moved = switched()
    assert watch(moved, [ignored] * 10) is moved


@pytest.mark.parametrize("bad", [request(2, ttft_ms=2000.0), request(2, error="engine_dead")])
@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_fallback_of_whose_requests_not_more_than_half_are_good_fails_the_verification(bad, good):
    watched = watch(switched(), [bad] * (4 - good) + [request(3)] * good)
    (done,) = published(watched, cf.RollbackCompleted)
    assert done.verdict == "fail"
    assert done.timeline.verified_at is None
    assert "hardly the cause" in done.reason


def test_a_fallback_of_whose_requests_more_than_half_are_good_is_verified():
    (done,) = published(watch(switched(), [request(2, ttft_ms=2000.0), *[request(3)] * 3]), cf.RollbackCompleted)
    assert done.verdict == "pass"


def test_without_traffic_a_probe_decides_and_the_route_stays_switched():
    moved = switched(at=1)
    assert execution.overdue_verifications(moved, f.after(30), RULES) == ()
    assert [late.rollback_id for late in execution.overdue_verifications(moved, f.after(31), RULES)] == [ID]
    answered = execution.assess_by_probe(moved, ID, answers=True, now=f.after(31))
    (done,) = published(answered, cf.RollbackCompleted)
    assert done.verdict == "inconclusive"
    assert done.reason.startswith("No request came;")
    (silent,) = published(execution.assess_by_probe(moved, ID, answers=False, now=f.after(31)), cf.RollbackCompleted)
    assert silent.verdict == "fail"
    assert execution.assess_by_probe(answered, ID, answers=False, now=f.after(40)) is answered


# -- rehearsals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "fault"),
    [
        ("ttft_ms", "delay_ms=1700"),
        ("e2e_ms", "delay_ms=1700"),
        ("error_ratio", "error_ratio=1"),
        ("refusal_ratio", "answer=refusal"),
        ("empty_ratio", "answer=empty"),
        ("repetition_ratio", "garble"),
        ("itl_ms", "token_delay_ms=1700"),
        ("queue_ms", "queue_delay_ms=1700"),
        ("cut_off_ratio", "answer=cut"),
        ("nan_logits", "nan_logits"),
        ("output_tokens", "output_tokens=100"),
    ],
)
def test_every_trigger_but_drift_has_a_fault_that_it_must_notice(metric, fault):
    trigger = f.trigger(metric=metric, threshold=800.0 if metric.endswith("_ms") else 0.1)
    assert describe_fault(rehearsal_plan.plan_fault(trigger)) == fault


def test_a_threshold_that_no_answer_reaches_has_the_longest_fault():
    fault = rehearsal_plan.plan_fault(f.trigger(metric="ttft_ms", threshold=1e308))
    assert describe_fault(fault) == "delay_ms=600000"


def test_drift_has_no_fault():
    assert rehearsal_plan.plan_fault(f.trigger(metric="drift")) is None


def certified(rehearsed, injected=-1.0, policy=POLICY):
    return rehearsal_plan.assess_rehearsal(
        f.trigger(name="slow"),
        cf.DrillFault(delay_ms=1700),
        rehearsed.rollback(ID),
        f.after(injected),
        candidate=f.digest("c"),
        fallback=f.digest("f"),
        policy=policy,
        expires_at=f.after(900),
    )


def test_a_certificate_names_the_facts_the_times_and_the_artifacts():
    certificate = certified(watch(switched(), [request(2)] * 4))
    assert (certificate.trigger, certificate.fault, certificate.alert_event_id) == ("slow", "delay_ms=1700", "a-1")
    assert certificate.route_event_id == derived_id("a-1", cf.DeploymentChanged.TYPE, ID)
    assert (certificate.detect_s, certificate.switch_s, certificate.verify_s) == (1.0, 1.0, 4.0)
    assert (certificate.candidate_digest, certificate.fallback_digest) == (f.digest("c"), f.digest("f"))
    assert (certificate.policy_digest, certificate.expires_at) == (f.digest("policy"), f.after(900))


def test_clocks_that_are_apart_make_no_negative_time_of_detection():
    assert certified(watch(switched(), [request(2)] * 4), injected=5.0).detect_s == 0.0


@pytest.mark.parametrize(
    ("rehearsed", "policy", "why"),
    [
        (take(state(), alert(), fact_id="a-1"), "policy", "not switched in time"),
        (switched(), "policy", "not verified (no verdict)"),
        (watch(switched(), [request(2, error="engine_dead")] * 4), "policy", "not verified (fail)"),
        (
            execution.record_failure(take(state(), alert(), fact_id="a-1"), ID, "previous_not_ready", "", f.after(1)),
            "policy",
            "failed (previous_not_ready)",
        ),
        (watch(switched(), [request(2)] * 4), None, "does not name the policy"),
    ],
)
def test_whatever_is_missing_is_no_certificate(rehearsed, policy, why):
    reason = certified(rehearsed, policy=f.digest(policy) if policy else None)
    assert isinstance(reason, str)
    assert why in reason


@pytest.mark.parametrize(
    ("metric", "seconds", "threshold"),
    [
        ("ttft_ms", [], 800.0),
        ("ttft_ms", [0.1, 0.5], 800.0),
        ("e2e_ms", [2.0, 4.0, 3.0], 6000.0),
        ("itl_ms", [2.0, 4.0, 3.0], 1500.0),  # an answer of 4 tokens
        ("queue_ms", [900.0], 200_000.0),
    ],
)
def test_a_fallback_may_take_half_more_than_its_slowest_answer_before_the_fault(metric, seconds, threshold):
    declared = f.trigger(name="slow", metric=metric, threshold=800.0)
    verifying = rehearsal_plan.allow_as_before(declared, seconds, rehearsal_plan.Load(tokens=4))
    assert verifying.model_validate(verifying.model_dump()).threshold == threshold
    recorded = rehearsal_plan.replace_trigger(state(), 7, verifying)
    assert recorded.trigger(f.target(7), "slow") == verifying
    assert rehearsal_plan.replace_trigger(state(), 70, verifying) == state(), "its policy has not arrived yet"


def test_a_rehearsal_starts_with_no_past_and_its_outcome_is_kept():
    began = rehearsal_plan.start_rehearsal(
        switched().model_copy(update={"environment": "staging"}), "slow", f.after(60)
    )
    assert (began.rehearsing, began.rollbacks, began.held) == ("slow", (), {})
    assert [fact.verdict for fact in published(began, cf.RollbackCompleted)] == ["inconclusive"]
    asked = f.fact(cf.RehearsalRequested)
    current = rehearsal_plan.record_request(state(), asked)
    assert rehearsal_plan.record_request(current, asked) is current
    done = f.fact(cf.RehearsalCompleted)
    current = rehearsal_plan.record_outcome(current, done)
    assert rehearsal_plan.record_outcome(current, done.model_copy(update={"verdict": "fail"})) is current
    for number in range(50):
        current = rehearsal_plan.record_request(current, asked.model_copy(update={"release_id": f"r-{number}"}))
        current = rehearsal_plan.record_outcome(current, done.model_copy(update={"release_id": f"r-{number}"}))
    assert len(current.rehearsals) == len(current.rehearsed) == 20


def test_each_staging_route_is_newer_than_the_one_before():
    first = rehearsal_plan.plan_staging_route(None, f.MODEL, f.served(7), f.served(6), cause_id="s/slow")
    second = rehearsal_plan.plan_staging_route(first, f.MODEL, None, None, cause_id="s/end")
    assert (first.epoch, second.epoch, second.active, second.quarantined) == (1, 2, None, ())


# -- verification by the triggers on what the engine reports ------------------------------------------------------------

PACED = {"itl_ms": InterTokenLatency(mean=80.0, p95=90.0, max=99.0)}
SIGNALS = [
    (f.trigger(name="slow", metric="itl_ms", threshold=50), PACED),
    (f.trigger(name="slow", metric="queue_ms", threshold=200), {"queue_ms": 900.0}),
    (f.trigger(name="slow", metric="cut_off_ratio", threshold=0.05), {"finish_reason": "length", "output_tokens": 900}),
    (f.trigger(name="slow", metric="output_tokens", threshold=100), {"output_tokens": 400}),
    (f.trigger(name="slow", metric="output_tokens", threshold=8, bound="lower"), {"output_tokens": 2}),
    (f.trigger(name="slow", metric="logprob_mean", threshold=-2), {"logprob_mean": -4.0}),
    (f.trigger(name="slow", metric="nan_logits", threshold=0.01), {"nan_logits": True}),
    (f.trigger(name="slow", metric="goodput_ratio", threshold=0.95), PACED),
]


def switched_by(trigger) -> RollbackState:
    declared = (trigger, f.trigger(name="pace", metric="itl_ms", threshold=60, action="manual"))
    decided = take(state(triggers={"7": declared}), alert(), fact_id="a-1")
    return execution.record_switch(decided, ID, route(6, None), "rollback", f.after(1))


@pytest.mark.parametrize(("trigger", "bad"), SIGNALS, ids=lambda part: getattr(part, "metric", ""))
def test_raw_telemetry_of_the_fallback_decides_the_verification(trigger, bad):
    moved = switched_by(trigger)
    for records, verdict in (([request(2, **bad)] * 3 + [request(3)], "fail"), ([request(2)] * 4, "pass")):
        (done,) = published(watch(moved, records), cf.RollbackCompleted)
        assert done.verdict == verdict


@pytest.mark.parametrize(("trigger", "bad"), SIGNALS, ids=lambda part: getattr(part, "metric", ""))
def test_what_a_caller_forces_says_only_whether_the_fallback_answers(trigger, bad):
    shaped = [request(2, **bad, forced_metrics=(trigger.metric,))] * 4
    (done,) = published(watch(switched_by(trigger), shaped), cf.RollbackCompleted)
    assert done.verdict == "pass"

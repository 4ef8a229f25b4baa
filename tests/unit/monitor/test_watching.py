"""From telemetry to alerts and canary verdicts: pure, so every order and every fault can be played."""

import random

import pytest

from contracts import facts as cf
from contracts.facts.watch import Features
from contracts.policy import Canary
from decisions.evidence.block_tests import plan_line
from decisions.evidence.version_tests import CandidateTest
from services.monitor.domain import monitoring as watching
from services.monitor.domain.monitoring import Cause, Sender
from services.monitor.domain.record import MonitorState
from testbed import factories as f
from tests.unit.monitor import factories as m

ACTIVE = str(f.target(7))
SLOW = f"{ACTIVE}/slow-first-token"


def raised(state):
    return m.published(state, cf.AlertRaised)


# -- alerts -----------------------------------------------------------------------------------------------------------


def test_healthy_traffic_raises_nothing():
    state = m.feed(m.routed(), 300, 10, m.mixed(0.01))
    assert raised(state) == []
    assert state.targets[ACTIVE].requests == 3000


def test_a_regression_is_raised_once_updated_and_resolved_after_it_was_calm():
    state = m.feed(m.routed(), 60, 3, m.mixed(0.0))
    state = m.feed(state, 60, 3, m.mixed(1.0), start=60)
    (alert,) = raised(state)
    assert (alert.kind, alert.severity, alert.trigger) == ("latency", "critical", "slow-first-token")
    assert alert.alert_id.startswith(f"{SLOW}/2026")
    assert alert.first_bad_at == f.after(60)
    assert (alert.raised_at - f.after(60)).total_seconds() < 16
    assert alert.limit == 0.05
    assert alert.value > 0.05
    assert alert.e_value >= plan_line(168.0, 2)
    assert alert.requests > 0
    assert alert.runbook == "docs/runbooks/latency.md"
    assert alert.release_id == "r-7"
    assert m.published(state, cf.AlertUpdated)[-1].value > alert.value
    state = m.feed(state, 240, 3, m.mixed(0.0), start=120)
    (resolved,) = m.published(state, cf.AlertResolved)
    assert resolved.alert_id == alert.alert_id
    assert resolved.value <= 0.05
    assert len(raised(state)) == 1


def test_an_alert_names_the_callers_of_most_bad_requests_since_it_began():
    names = random.Random(1)

    def slow(at):
        return m.record(at, ttft_ms=2000.0, caller=names.choice(["a" * 12] * 8 + ["b" * 12]))

    state = m.feed(m.routed(), 60, 3, m.mixed(0.0, caller="c" * 12))
    (alert,) = raised(m.feed(state, 60, 3, slow, start=60))
    named = alert.message.partition("by caller: ")[2]
    assert [name in named for name in ("a" * 12, "b" * 12, "c" * 12)] == [True, True, False]
    assert named.index("a" * 12) < named.index("b" * 12)


def test_the_next_time_is_another_alert_with_fresh_evidence():
    state = m.feed(m.routed(), 30, 3, m.mixed(1.0))
    state = m.feed(state, 240, 3, m.mixed(0.0), start=30)
    state = m.feed(state, 30, 3, m.mixed(1.0), start=270)
    first, second = (alert.alert_id for alert in raised(state))
    assert first != second


def test_a_short_calm_does_not_resolve():
    state = m.feed(m.routed(), 60, 3, m.mixed(1.0))
    for start in (60, 140, 220):
        state = m.feed(state, 50, 3, m.mixed(0.0), start=start)
        state = m.feed(state, 30, 3, m.mixed(1.0), start=start + 50)
    assert m.published(state, cf.AlertResolved) == []
    assert len(raised(state)) == 1


def test_a_burst_is_one_observation_however_many_requests_it_has():
    state = m.feed(m.routed(), 20, 3, m.mixed(0.0))
    state = m.take(state, [m.record(20, ttft_ms=5000) for _ in range(300)], 24)
    assert raised(m.feed(state, 20, 3, m.mixed(0.0), start=24)) == []


def test_a_block_is_evidence_once_it_is_over_without_any_further_request():
    state = m.feed(m.routed(), 20, 3, m.record)
    state = m.take(state, [m.failed(20 + index / 2) for index in range(16)], 28)
    assert raised(state) == []
    assert raised(watching.assess(state, m.cause(28.9), m.RULES)) == []
    assert raised(watching.assess(state, m.cause(29.5), m.RULES))[0].answers_nothing


def test_a_failure_that_is_reported_late_counts_in_a_later_block():
    """A gateway that was cut off from the bus reports many at once: they are one observation."""
    late = [m.failed(20 + index * 0.1) for index in range(100)]
    state = m.feed(m.routed(), 60, 3, m.mixed(0.0))
    state = m.feed(m.take(state, late, 60), 10, 3, m.mixed(0.0), start=60)
    assert raised(state) == []
    assert m.published(state, cf.AlertRaised) == []


def test_hard_failures_need_no_statistics():
    state = m.feed(m.routed(), 20, 3, m.record)
    state = m.feed(state, 8, 2, m.failed, start=20)
    assert raised(state) == []
    state = m.feed(state, 1, 2, m.failed, start=28)
    (alert,) = raised(state)
    assert (alert.kind, alert.trigger, alert.first_bad_at) == ("errors", "errors", f.after(20))
    assert "The last 12 different requests all failed." in alert.message
    assert "The last one failed with engine_dead." in alert.message
    assert alert.answers_nothing


def test_a_target_that_is_loaded_nowhere_or_whose_last_replica_died_answers_nothing_from_its_first_failure_on():
    state = m.feed(m.routed(), 20, 3, m.mixed(0.0))
    unloaded = {"error": "not_loaded", "caused_by": "target"}
    (alert,) = raised(m.take(state, [m.failed(20, **unloaded)], 22))
    assert (alert.kind, alert.trigger, alert.answers_nothing) == ("errors", "errors", True)
    assert "The last one failed with not_loaded." in alert.message
    endpoint = f.served(7).endpoints[0]
    (alert,) = raised(m.take(state, [m.failed(20, endpoint=endpoint, engine_died="meanwhile")], 22))
    assert "Its last replica is reported dead." in alert.message
    assert alert.answers_nothing
    elsewhere = m.take(state, [m.failed(20, endpoint="other:8001", engine_died="meanwhile")], 22)
    assert raised(elsewhere) == [], "another replica serves"


def test_the_same_body_again_is_one_failure():
    def same(at, **about):
        return m.failed(at, body="5f2b8c7d1e90", error="engine_failed", **about)

    state = m.feed(m.routed(), 20, 3, m.mixed(0.0))
    assert raised(m.feed(state, 300, 4, same, start=20)) == []
    assert raised(m.feed(state, 20, 4, lambda at: same(at, caller=f"key-{at}"), start=20))[0].answers_nothing
    assert raised(m.feed(state, 20, 4, lambda at: same(at, drill="drill-9"), start=20))[0].answers_nothing


def test_a_body_that_was_in_flight_at_deaths_of_two_versions_is_an_alert_of_its_own():
    about = {"engine_died": "meanwhile", "body": "5f2b8c7d1e90"}
    state = m.take(m.routed(), [m.failed(1, **about)], 2)
    state = m.routed(of=state, active=6, epoch=13, at=3.0)
    state = m.take(state, [m.failed(4, version=6, **about)], 5)
    alert = next(alert for alert in raised(state) if alert.kind == "engine")
    assert "at least one kills every version" in alert.message


def test_answers_that_are_all_empty_raise_an_alert_without_any_trigger():
    empty = Features(prompt_chars=5, output_chars=0, empty=True)
    state = m.feed(m.routed(), 8, 2, lambda at: m.record(at, features=empty))
    (alert,) = raised(state)
    assert (alert.kind, alert.trigger) == ("quality", None)
    assert "/all-empty/" in alert.alert_id
    state = m.feed(state, 90, 3, m.mixed(0.0), start=9)
    assert len(m.published(state, cf.AlertResolved)) == 1


def test_a_drill_is_named():
    state = m.feed(m.routed(), 30, 3, m.mixed(1.0, drill="drill-9"))
    (alert,) = raised(state)
    assert alert.drill == "drill-9"
    assert "drill-9" in alert.message


def test_a_target_that_leaves_the_route_resolves_its_alerts_and_is_not_watched():
    state = m.feed(m.routed(), 30, 3, m.mixed(1.0))
    state = m.routed(active=6, epoch=13, of=state, at=31)
    (resolved,) = m.published(state, cf.AlertResolved)
    assert "no traffic any more" in resolved.message
    before = len(state.outbox)
    state = m.take(state, [m.record(29, ttft_ms=9000) for _ in range(50)], 33)
    assert len(state.outbox) == before
    assert set(state.targets) == {str(f.target(6))}


# -- what must not matter ---------------------------------------------------------------------------------------------


def test_duplicates_of_batches_and_of_records_count_once():
    records = [m.record(index * 0.1) for index in range(10)]
    cause = m.cause(2, "gateway-1")
    once = watching.add_records(m.routed(), records, cause, m.RULES)
    assert watching.add_records(once, records, cause, m.RULES) is once
    again = m.take(once, [*records, *records], 3)
    assert again.targets == once.targets


def test_one_request_id_for_many_requests_hides_nothing():
    state = m.take(m.routed(), [m.record(index, request_id="same", ttft_ms=9000) for index in range(30)], 40)
    assert state.targets[ACTIVE].requests == 30


def test_order_does_not_matter_to_windows_and_counts():
    records = [m.record(index * 0.5, ttft_ms=100 + index) for index in range(200)]
    shuffled = random.Random(3).sample(records, len(records))
    in_order, out_of_order = m.take(m.routed(), records, 100), m.take(m.routed(), shuffled, 100)
    ours, theirs = in_order.targets[ACTIVE], out_of_order.targets[ACTIVE]
    assert ours.windows == theirs.windows
    assert ours.triggers == theirs.triggers
    (window,) = m.published(in_order, cf.WindowSummarised)
    blocks = [requests for _, requests, _ in window.blocks["errors"]]
    blocks += [block.requests for block in ours.closed["errors"].values()]
    assert sum(blocks) + sum(block.requests for block in ours.triggers["errors"].blocks.counts.values()) == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"e2e_ms": -1.0},
        {"ttft_ms": -5.0},
        {"e2e_ms": 1e12},
        {"scheduled_at": f.after(9999)},
        {"output_tokens": -3},
        {"target": f.target(7, model="other-bot")},
        {"environment": "staging"},
    ],
)
def test_what_cannot_be_true_is_left_aside(wrong):
    state = m.take(m.routed(), [m.record(1, **wrong), m.record(2)], 3)
    assert state.implausible == 1
    assert state.targets[ACTIVE].requests == 1


def test_an_old_route_changes_nothing():
    state = m.routed(epoch=12)
    assert m.routed(active=6, epoch=11, of=state).targets == state.targets


def test_state_is_bounded():
    state = m.routed()
    for number in range(520):
        state = m.take(state, [m.record(number + index / 10) for index in range(8)], number + 2)
        state = state.model_copy(update={"outbox": ()})
    assert len(state.applied) == 512
    assert len(state.seen) == 4096 * 12
    assert len(state.model_dump_json()) < 250_000
    assert len(state.targets[ACTIVE].windows) <= 3


def test_a_restart_in_mid_window_loses_nothing():
    going, stopped = m.routed(), m.routed()
    make, again = m.mixed(0.2, seed=4), m.mixed(0.2, seed=4)
    for number in range(40):
        records = [make(number + index / 5) for index in range(5)]
        same = [
            item.model_copy(update={"request_id": two.request_id})
            for item, two in zip([again(number + index / 5) for index in range(5)], records, strict=True)
        ]
        cause = m.cause(number + 2)
        going = watching.add_records(going, records, cause, m.RULES)
        stopped = watching.add_records(
            MonitorState.model_validate_json(stopped.model_dump_json()), same, cause, m.RULES
        )
    assert stopped.targets == going.targets
    assert stopped.alerts == going.alerts
    assert [entry.data for entry in stopped.outbox] == [entry.data for entry in going.outbox]


# -- staging ----------------------------------------------------------------------------------------------------------


def test_staging_is_watched_without_a_route_under_ids_of_its_own():
    state = m.feed(m.watch(environment="staging"), 30, 3, m.mixed(1.0, environment="staging"))
    (alert,) = raised(state)
    assert alert.alert_id.startswith(f"staging/{SLOW}/2026")


def test_a_silent_staging_target_is_forgotten_so_that_the_next_rehearsal_starts_fresh():
    state = m.feed(m.watch(environment="staging"), 30, 3, m.mixed(1.0, environment="staging"))
    state = watching.assess(state, m.cause(200), m.RULES)
    assert len(m.published(state, cf.AlertResolved)) == 1
    assert state.targets == {}
    state = m.feed(state, 30, 3, m.mixed(1.0, environment="staging"), start=300)
    first, second = (alert.alert_id for alert in raised(state))
    assert first != second


# -- windows ----------------------------------------------------------------------------------------------------------


def test_each_window_is_summarised_once_after_its_lateness():
    state = m.feed(m.routed(), 130, 2, m.mixed(0.0))
    state = watching.assess(state, m.cause(200), m.RULES)
    windows = m.published(state, cf.WindowSummarised)
    assert sum(window.requests for window in windows) == 260
    assert len({window.window.from_ for window in windows}) == len(windows)
    assert all(set(window.observed) == {"slow-first-token", "errors"} for window in windows)
    assert sum(window.observed["errors"][0] for window in windows) >= 120, "slots are kept for two windows"
    late = m.take(state, [m.record(3)], 201)
    assert late.targets[ACTIVE].windows == ()
    assert watching.assess(late, m.cause(300), m.RULES).outbox == state.outbox


def test_a_window_counts_failures_of_the_target():
    others = [m.failed(1, caused_by=party) for party in ("caller", "gateway", "infrastructure")]
    state = m.take(m.routed(), [m.record(1), m.failed(1), m.failed(1), *others], 2)
    (window,) = m.published(watching.assess(state, m.cause(200), m.RULES), cf.WindowSummarised)
    assert (window.requests, window.target_failures) == (6, 2)
    assert window.errors == {"engine_dead": 5}


@pytest.mark.parametrize("started_s", [0.0, 61.0, 90.0, 3600.0])
def test_a_backlog_is_summarised_whole_however_late_it_is_read(started_s):
    """The first batch does not close the window of the batches behind it: none of them is late."""
    state = m.routed()
    for stored_s in range(1, 200):
        cause = Cause(f"batch-{stored_s}", f.after(max(stored_s, started_s)), "correlation")
        sender = Sender("gateway-east-1", 0.0, f.after(stored_s))
        state = watching.add_records(state, [m.record(stored_s - 0.9)], cause, m.RULES, sender)
    (watched,) = state.targets.values()
    assert watched.requests == 199
    state = watching.assess(state, m.cause(max(300.0, started_s)), m.RULES)
    assert sum(window.requests for window in m.published(state, cf.WindowSummarised)) == 199


# -- the canary -------------------------------------------------------------------------------------------------------


def both(canary_ratio, active_ratio, seed=1):
    """One canary request in three, for evenness; each side slow at its own ratio."""
    draw = random.Random(seed)

    def make(at):
        version, ratio = (8, canary_ratio) if draw.random() < 1 / 3 else (7, active_ratio)
        return m.record(at, version=version, canary=version == 8, ttft_ms=2000.0 if draw.random() < ratio else 100.0)

    return make


def canary_state():
    return m.routed(canary=8, weight=0.33, of=m.watch(versions=(7, 8)))


def verdicts(state):
    return [(fact.verdict, fact.requests_needed) for fact in m.published(state, cf.CanaryAssessed)]


def test_a_healthy_canary_passes_after_enough_requests_and_says_what_is_missing_before():
    state = m.feed(canary_state(), 300, 10, both(0.003, 0.003))
    assessed = m.published(state, cf.CanaryAssessed)
    assert [assessment.verdict for assessment in assessed[:-1]] == ["inconclusive"] * (len(assessed) - 1)
    assert assessed[2].requests_needed > assessed[-2].requests_needed > 0
    assert assessed[-1].verdict == "pass"
    assert assessed[-1].requests >= 100
    assert assessed[-1].weight_ratio == 0.33
    assert set(assessed[-1].e_values) == {"errors", "errors:baseline", "slow-first-token", "slow-first-token:baseline"}
    assert raised(state) == []


def test_an_assessment_carries_the_counts_that_its_reason_and_its_e_values_are_of():
    state = m.feed(canary_state(), 100, 10, both(0.02, 0.02))
    for assessed in m.published(state, cf.CanaryAssessed):
        assert set(assessed.counts) == {"errors", "slow-first-token"}
        counts = assessed.counts["slow-first-token"]
        assert counts.requests == assessed.requests
        assert counts.bad <= counts.requests
        if "slow-first-token: " in assessed.reason:
            own = f"slow-first-token: {counts.bad} of {counts.requests} bad"
            beside = f"{counts.active_bad} of {counts.active_requests} on the active version"
            assert own in assessed.reason
            assert beside in assessed.reason or not counts.active_requests
    assert counts.bad > 0


def test_the_evidence_about_a_canary_adds_up_over_its_shares_and_begins_anew_with_another_role():
    state = m.feed(canary_state(), 20, 10, both(0.1, 0.01))
    before = state.targets[str(f.target(8))].triggers
    state = m.routed(canary=8, weight=0.5, epoch=13, of=state, at=21.0)
    assert state.targets[str(f.target(8))].requests == 0
    for name, of in state.targets[str(f.target(8))].triggers.items():
        assert of.candidate.everyone.test == CandidateTest(passing=before[name].candidate.everyone.test.passing)
    state = m.feed(state, 5, 10, both(0.0, 0.0), start=22.0)
    counts = m.published(state, cf.CanaryAssessed)[-1].counts["slow-first-token"]
    assert counts.bad == before["slow-first-token"].candidate.candidate.bad > 0
    assert m.routed(active=8, epoch=14, of=state, at=30.0).targets[str(f.target(8))].triggers == {}


def test_what_a_step_for_some_callers_showed_passes_nothing_for_everyone():
    state = m.routed(canary=8, weight=0.5, only_for=("team:staff",), of=m.watch(versions=(6, 7, 8)))
    state = m.feed(state, 20, 10, both(0.0, 0.0))
    assert state.targets[str(f.target(8))].triggers
    state = m.routed(canary=8, weight=0.1, epoch=13, of=state, at=21.0)
    assert state.targets[str(f.target(8))].triggers == {}


@pytest.mark.parametrize("version", [7, 8])
def test_a_request_that_names_its_version_is_no_evidence_about_a_candidate(version):
    pinned = m.mixed(1.0, version=version, canary=version == 8, pinned=True)
    state = m.feed(canary_state(), 30, 10, pinned)
    for trigger in state.targets[str(f.target(8))].triggers.values():
        assert (trigger.candidate.candidate.requests, trigger.candidate.active.requests) == (0, 0)
    assert state.targets[str(f.target(8))].requests == 0
    assert {alert.target for alert in raised(state)} == ({f.target(7)} if version == 7 else set())


def test_a_slow_canary_fails_and_raises_an_alert_while_its_baseline_is_left_alone():
    state = m.feed(canary_state(), 60, 10, both(0.5, 0.01))
    assert verdicts(state)[-1] == ("fail", 0)
    assert {str(alert.target) for alert in raised(state)} == {str(f.target(8))}
    assert [entry.correlation_id for entry in state.outbox if entry.type == cf.CanaryAssessed.TYPE][-1] == "r-8"


def test_a_canary_within_its_limit_but_worse_than_the_baseline_fails():
    lenient = m.policy(triggers=(f.trigger(allowed_ratio=0.5),), canary=Canary(steps=(0.33,), min_requests=4000))
    state = m.routed(canary=8, weight=0.33, of=m.watch(versions=(7, 8), the_policy=lenient))
    state = m.feed(state, 240, 10, both(0.48, 0.0))
    fact = m.published(state, cf.CanaryAssessed)[-1]
    assert fact.verdict == "fail"
    assert "it is worse than the active version" in fact.reason
    assert "Worse than the active version at the same time" in raised(state)[0].message


def test_a_slow_hour_of_both_sides_fails_neither_by_comparison():
    lenient = m.policy(triggers=(f.trigger(allowed_ratio=0.6),))
    state = m.routed(canary=8, weight=0.33, of=m.watch(versions=(7, 8), the_policy=lenient))
    state = m.feed(state, 60, 10, both(0.4, 0.4))
    assert verdicts(state)[-1][0] == "pass"


def test_no_traffic_is_never_a_pass():
    state = canary_state()
    for second in range(0, 600, 20):
        state = watching.assess(state, m.cause(second), m.RULES)
    assert {verdict for verdict, _ in verdicts(state)} == {"inconclusive"}


def test_a_later_step_needs_its_own_requests_and_no_proof_anew():
    state = m.feed(canary_state(), 300, 10, both(0.0, 0.0))
    assert verdicts(state)[-1][0] == "pass"
    state = m.routed(canary=8, weight=0.5, epoch=13, of=state, at=301)
    assert state.targets[str(f.target(8))].requests == 0
    state = m.feed(state, 40, 10, both(0.0, 0.0), start=302)
    last = m.published(state, cf.CanaryAssessed)[-1]
    assert (last.weight_ratio, last.verdict, last.requests >= 100) == (0.5, "pass", True)


def test_where_both_versions_are_beyond_the_limit_the_candidate_waits_and_the_reason_says_so():
    state = m.feed(canary_state(), 100, 10, both(0.6, 0.6))
    fact = m.published(state, cf.CanaryAssessed)[-1]
    assert (fact.verdict, "the active version is beyond its limit, too" in fact.reason) == ("inconclusive", True)
    assert raised(state)
    assert {alert.target for alert in raised(state)} == {f.target(7)}


def test_a_promoted_canary_is_watched_by_blocks_from_then_on():
    state = m.feed(canary_state(), 100, 10, both(0.01, 0.01))
    state = m.routed(active=8, epoch=14, of=state, at=101)
    state = m.feed(state, 30, 3, m.mixed(1.0, version=8), start=102)
    now = state.targets[str(f.target(8))]
    assert now.role == "active"
    assert now.triggers["slow-first-token"].detector.peak > plan_line(168.0, 2)
    assert raised(state)[-1].target == f.target(8)


def test_one_slow_request_long_ago_is_not_the_first_of_a_later_regression():
    state = m.feed(m.routed(), 100, 3, m.mixed(0.0))
    state = m.take(state, [m.record(100, ttft_ms=2000.0)], 101)
    state = m.feed(state, 300, 3, m.mixed(0.0), start=101)
    state = m.feed(state, 30, 3, m.mixed(1.0), start=401)
    (alert,) = raised(state)
    assert alert.first_bad_at == f.after(401)

import itertools
import random

from contracts.policy import Trigger
from contracts.routes import Suspended
from decisions.evidence.block_tests import BLOCK_S, GRACE_S, Block, ShareDetector, observe_detector, plan_line
from decisions.replay.engine import replay, spread, spread_late
from testbed.factories import after
from tests.unit.cli.recordings import (
    ERRORS,
    MINUTE,
    SLOW,
    V1,
    V2,
    V3,
    changed,
    minutes,
    on_trial,
    opened,
    serving,
    window,
)

ROUTE = [changed(1, -3600, 1), changed(2, -1800, 2, 1)]
LONG_AGO = after(-86_400)


def outcomes(result):
    return [(str(fired.target), fired.trigger.name, fired.outcome, fired.code) for fired in result.fired]


def test_bad_requests_are_spread_evenly():
    assert spread(5, 1) == [False, False, True, False, False]
    assert spread(4, 4) == [True] * 4
    assert spread(4, 0) == [False] * 4
    for trials, hits in ((60, 7), (61, 20), (7, 3), (1000, 999)):
        flags = spread(trials, hits)
        assert (len(flags), sum(flags)) == (trials, hits)
        so_far = [sum(flags[:index]) for index in range(trials + 1)]
        assert all(abs(count - index * hits / trials) <= 1.0 for index, count in enumerate(so_far))


def test_bad_requests_are_spread_over_the_last_ones():
    assert spread_late(6, 2, 2) == [False, False, False, False, True, True]
    assert spread_late(6, 1, 3) == [False, False, False, False, False, True]
    assert spread_late(6, 2, 4) == [False, False, False, True, False, True]
    for trials, hits, late in ((60, 7, 10), (60, 20, 20), (60, 60, 60), (60, 0, 10), (5, 0, 0), (1, 1, 1), (4, 2, 4)):
        flags = spread_late(trials, hits, late)
        assert (len(flags), sum(flags), sum(flags[trials - late :])) == (trials, hits, hits)


def test_healthy_traffic_fires_nothing():
    result = replay([SLOW, ERRORS], [*ROUTE, *minutes(0, 60, slow=2)], since=LONG_AGO)
    assert result.fired == ()
    assert (result.windows, result.requests, result.begin, result.end) == (60, 3600, after(0), after(3600))


def test_a_regression_fires_and_rolls_back_to_the_previous_target():
    result = replay([SLOW, ERRORS], [*ROUTE, *minutes(0, 10), *minutes(600, 5, slow=30)], since=LONG_AGO)
    (fired,) = result.fired
    assert (fired.target, fired.trigger, fired.outcome, fired.to) == (V2, SLOW, "rolled back", V1)
    assert after(600) < fired.at < after(660)
    assert (fired.trials, fired.hits, fired.role, fired.again) == (60, 30, "active", False)
    assert fired.e_value >= plan_line(168.0, 2)


def test_recorded_blocks_fire_as_soon_as_the_detector_does():
    """Bad requests of a minute are where they were, not spread evenly over it."""
    blocks = [[(at, 2, 2 if minute == 3 and at >= 20 else 0) for at in range(0, 60, 2)] for minute in range(4)]
    bad = [Block(requests=requests, bad=bad) for of_minute in blocks for _, requests, bad in of_minute]
    line = plan_line(168.0, 1)
    needed = next(n for n in itertools.count(1) if observe_detector(ShareDetector(), 0.05, bad[:n]).peak >= line)
    windows = [window(60.0 * n, slow=40 * (n == 3), blocks={"slow": tuple(of)}) for n, of in enumerate(blocks)]
    (fired,) = replay([SLOW], [*ROUTE, opened(2, [SLOW]), *windows], since=LONG_AGO).fired
    assert needed > 100
    assert after(BLOCK_S * needed + GRACE_S) <= fired.at <= after(BLOCK_S * needed + GRACE_S + 0.5)
    assert (fired.trials, fired.hits) == (60, 40)
    looser = SLOW.model_copy(update={"threshold": 400.0})
    (other,) = replay([looser], [*ROUTE, opened(2, [SLOW]), *windows], since=LONG_AGO).fired
    assert after(180) < other.at < fired.at, "of another threshold the window says only how many were bad"


def test_a_hard_failure_that_ends_within_a_window_fires():
    loose = ERRORS.model_copy(update={"threshold": 0.9})
    blocks = tuple((at, 4, 4 if 20 <= at < 30 else 0) for at in range(0, 60, 2))
    dead = window(60.0, requests=120, failed=20, blocks={"errors": blocks})
    (fired,) = replay([loose], [*ROUTE, opened(2, [loose]), window(0.0), dead], since=LONG_AGO).fired
    assert after(86) <= fired.at <= after(92)
    assert fired.outcome == "rolled back"


def test_a_threshold_decides_what_is_slow():
    recorded = [*ROUTE, *minutes(0, 5), *minutes(300, 5, slow=30)]
    loose = SLOW.model_copy(update={"threshold": 1000.0})
    tight = SLOW.model_copy(update={"threshold": 100.0})
    assert replay([loose], recorded, since=LONG_AGO).fired == ()
    assert replay([tight], recorded, since=LONG_AGO).fired[0].at < after(60)


def test_errors_fire_too_and_only_the_first_of_two_triggers_rolls_back():
    result = replay([SLOW, ERRORS], [*ROUTE, *minutes(0, 5, slow=20, failed=30)], since=LONG_AGO)
    assert outcomes(result) == [("support-bot.v2.bf16", "errors", "rolled back", None)]


def test_a_manual_trigger_is_left_to_an_operator_and_listed_once():
    manual = ERRORS.model_copy(update={"action": "manual"})
    result = replay([manual], [*ROUTE, *minutes(0, 10, failed=30)], since=LONG_AGO)
    assert outcomes(result) == [("support-bot.v2.bf16", "errors", "manual", None)]
    assert "an operator decides" in result.fired[0].reason


def test_an_alert_is_resolved_by_healthy_traffic_and_fires_again():
    manual = ERRORS.model_copy(update={"action": "manual"})
    story = [*minutes(0, 3, failed=30), *minutes(180, 10), *minutes(780, 3, failed=30)]
    assert [fired.at < after(300) for fired in replay([manual], [*ROUTE, *story], since=LONG_AGO).fired] == [
        True,
        False,
    ]
    # one calm minute is not enough: it must be calm for as long again
    story = [*minutes(0, 3, failed=30), *minutes(180, 1), *minutes(240, 3, failed=30)]
    assert len(replay([manual], [*ROUTE, *story], since=LONG_AGO).fired) == 1


def test_a_long_window_of_a_trigger_takes_longer_to_resolve():
    slow_to_calm = ERRORS.model_copy(update={"action": "manual", "window_s": 600.0})
    story = [*minutes(0, 3, failed=30), *minutes(180, 10), *minutes(780, 3, failed=30)]
    assert len(replay([slow_to_calm], [*ROUTE, *story], since=LONG_AGO).fired) == 1


def test_after_a_rollback_the_target_takes_no_traffic_until_it_is_promoted_anew():
    story = minutes(0, 60, failed=30)
    result = replay([ERRORS], [*ROUTE, *story], since=LONG_AGO)
    assert len(result.fired) == 1
    anew = changed(3, 1800, 2, 1)
    result = replay([ERRORS], [*ROUTE, *story, anew], since=LONG_AGO)
    assert [fired.at < after(60) for fired in result.fired] == [True, False]
    assert after(1800) < result.fired[1].at < after(1860)


def test_while_a_version_is_suspended_no_trigger_moves_the_traffic_of_the_other():
    back = changed(3, 120, 1, 3, cause="rollback")
    story = [*minutes(0, 2, failed=30), *minutes(120, 8, which=V1, failed=30)]
    result = replay([ERRORS], [*ROUTE, back, *story], since=LONG_AGO)
    assert outcomes(result) == [
        ("support-bot.v2.bf16", "errors", "rolled back", None),
        ("support-bot.v1.bf16", "errors", "held", "suspended"),
    ]


def test_a_version_that_is_suspended_on_the_recorded_route_counts():
    held = Suspended(served=serving(2), cause="errors", since=after(-60))
    back = changed(3, -60, 1, 3, cause="rollback", suspended=(held,))
    result = replay([ERRORS], [*ROUTE, back, *minutes(0, 8, which=V1, failed=30)], since=LONG_AGO)
    assert outcomes(result) == [("support-bot.v1.bf16", "errors", "held", "suspended")]


def test_without_a_previous_target_it_is_refused_once():
    result = replay([ERRORS], [changed(1, -3600, 1), *minutes(0, 10, which=V1, failed=30)], since=LONG_AGO)
    assert outcomes(result) == [("support-bot.v1.bf16", "errors", "refused", "no_previous_target")]


def test_a_canary_is_aborted_and_the_active_target_keeps_serving():
    trial = changed(3, 0, 2, 1, cause="canary", canary=on_trial(3))
    story = [*minutes(0, 5), *minutes(0, 5, which=V3, requests=30, failed=15)]
    (fired,) = replay([ERRORS], [*ROUTE, trial, *story], since=LONG_AGO).fired
    assert (fired.target, fired.role, fired.outcome, fired.to) == (V3, "canary", "canary aborted", V2)


def test_a_canary_is_assessed_by_an_e_process_which_needs_no_portions():
    """The same evidence fails a canary sooner: its test need not bound false alarms for a million requests."""
    story = minutes(0, 3, which=V3, requests=60, failed=9)
    as_canary = replay(
        [ERRORS], [*ROUTE, changed(3, 0, 2, 1, cause="canary", canary=on_trial(3)), *story], since=LONG_AGO
    )
    as_active = replay([ERRORS], [*ROUTE, changed(3, 0, 3, 2), *story], since=LONG_AGO)
    assert as_canary.fired[0].at < as_active.fired[0].at


def test_the_evidence_against_a_canary_begins_anew_when_its_share_changes():
    weak = minutes(0, 1, which=V3, requests=30, failed=6) + minutes(60, 1, which=V3, requests=30, failed=6)
    steady = changed(3, 0, 2, 1, cause="canary", canary=on_trial(3, 0.1))
    step = changed(4, 60, 2, 1, cause="canary", canary=on_trial(3, 0.2))
    assert len(replay([ERRORS], [*ROUTE, steady, *weak], since=LONG_AGO).fired) == 1
    assert not replay([ERRORS], [*ROUTE, steady, step, *weak], since=LONG_AGO).fired


def test_a_first_route_that_only_confirms_what_was_served_begins_nothing_anew():
    """The log's first route comes after the first windows, and states what they assume."""
    story = [window(MINUTE * number, requests=8, failed=1) for number in range(12)]
    known, later = ([changed(2, at, 2, 1), *story] for at in (-1800, 2 * MINUTE))
    alerts = [replay([ERRORS], events, since=LONG_AGO).alerts for events in (known, later)]
    assert alerts[0] == alerts[1] != ()


def test_a_minute_that_a_rollback_cut_short_is_spread_over_its_served_part():
    """Really rolled back after 20 s: all its requests came before."""
    back = changed(3, 20, 1, cause="rollback", quarantined=(V2,))
    (fired,) = replay([ERRORS], [*ROUTE, back, window(0, failed=40)], since=LONG_AGO).fired
    assert after(0) < fired.at < after(20)


def test_a_target_out_of_traffic_is_not_watched():
    result = replay([ERRORS], [*ROUTE, *minutes(0, 5, which=V1, failed=60)], since=LONG_AGO)
    assert (result.fired, result.windows) == ((), 5)


def test_before_any_route_is_known_what_would_follow_is_unknown():
    result = replay([ERRORS], minutes(0, 5, failed=30), since=LONG_AGO)
    assert outcomes(result) == [("support-bot.v2.bf16", "errors", "unknown", None)]
    result = replay([ERRORS], [changed(9, 600, 3, 2), *minutes(0, 5, failed=30)], since=LONG_AGO)
    assert outcomes(result) == [("support-bot.v2.bf16", "errors", "unknown", None)]


def test_windows_before_the_requested_time_are_not_evidence():
    story = [*minutes(0, 5, failed=30), *minutes(300, 5)]
    assert replay([ERRORS], [*ROUTE, *story], since=after(300)).fired == ()
    assert replay([ERRORS], [*ROUTE, *story], since=after(299)).fired != ()


def test_repeated_windows_or_out_of_order_count_once():
    story = [*ROUTE, *minutes(0, 5), *minutes(300, 5, slow=10)]
    draw, shuffled = random.Random(5), [*story, *story]
    draw.shuffle(shuffled)
    assert replay([SLOW], shuffled, since=LONG_AGO) == replay([SLOW], story, since=LONG_AGO)


def test_unrecorded_metrics_are_listed_and_the_others_replayed():
    circles = Trigger(name="circles", metric="repetition_ratio", threshold=0.1)
    drift = Trigger(name="drift", metric="drift", threshold=0.2)
    events = [*ROUTE, opened(2, [circles]), *minutes(0, 5, observed={"circles": (60, 40)}), *minutes(300, 2, which=V1)]
    result = replay([circles, drift, ERRORS], events, since=LONG_AGO)
    assert outcomes(result) == [("support-bot.v2.bf16", "circles", "rolled back", None)]
    assert [(gap.trigger, gap.windows) for gap in result.gaps] == [("drift", 7), ("circles", 2)]


def test_a_trigger_that_nothing_can_exceed_never_fires():
    all_of_them = ERRORS.model_copy(update={"threshold": 1.0})
    assert replay([all_of_them], [*ROUTE, *minutes(0, 20, failed=60)], since=LONG_AGO).fired == ()


def test_nothing_recorded_is_nothing_replayed():
    result = replay([ERRORS], ROUTE, since=LONG_AGO)
    assert (result.windows, result.fired, result.begin, result.end) == (0, (), None, None)

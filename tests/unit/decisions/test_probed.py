"""What probes show, and when a rollback is held for want of a confirmation."""

import itertools
from datetime import timedelta

import pytest

from decisions.probed import ProbedAnswer, can_probe, decide_shown, judge
from decisions.rollback import BOTH_SLOW, Doubt, Hold, RollBack, StartSlice, decide_confirmed
from testbed import factories as f

SLOW = f.trigger(name="slow", metric="ttft_ms", threshold=800.0)
PACE = f.trigger(name="pace", metric="itl_ms", threshold=60.0)
WHOLE = f.trigger(name="whole", metric="e2e_ms", threshold=30_000.0)
ERRORS = f.trigger(name="errors", metric="error_ratio", threshold=0.02)
EMPTY = f.trigger(name="empty", metric="empty_ratio", threshold=0.02)
QUICK, LATE, SLUGGISH = ProbedAnswer(100.0, 10.0), ProbedAnswer(900.0, 10.0), ProbedAnswer(100.0, 90.0)
NOW = f.after(100)


@pytest.mark.parametrize(
    ("trigger", "target", "other", "shown"),
    [
        (SLOW, LATE, QUICK, "target"),
        (SLOW, LATE, LATE, "both"),
        (SLOW, QUICK, LATE, "neither"),
        (SLOW, SLUGGISH, QUICK, "neither"),
        (SLOW, None, QUICK, "target"),
        (PACE, SLUGGISH, QUICK, "target"),
        (WHOLE, LATE, QUICK, "target"),
        (WHOLE, LATE, LATE, "neither"),
        (ERRORS, None, QUICK, "target"),
        (ERRORS, None, None, "both"),
        (ERRORS, LATE, QUICK, "neither"),
    ],
)
def test_what_one_round_shows(trigger, target, other, shown):
    assert judge(trigger, target, other) == shown


def test_two_rounds_decide():
    for rounds in itertools.product(("target", "both", "neither"), repeat=3):
        most = next((shown for shown in rounds if rounds.count(shown) >= 2), None)
        assert decide_shown(rounds) == most
    assert decide_shown([]) is None
    assert decide_shown(["target"]) is None


def test_quality_cannot_be_probed():
    assert [can_probe(trigger) for trigger in (SLOW, PACE, WHOLE, ERRORS, EMPTY)] == [True] * 4 + [False]


def decided(trigger=SLOW, *, raised_s=100.0, **doubt):
    doubt = Doubt(**{"confirmed_by": "none", "raised_at": f.after(raised_s)} | doubt)
    return decide_confirmed(RollBack(), doubt, trigger, NOW)


@pytest.mark.parametrize("confirmed_by", ["pairs", "callers", "drill", None])
def test_what_is_confirmed_is_rolled_back(confirmed_by):
    assert decided(confirmed_by=confirmed_by) == RollBack()


def test_what_only_probes_could_confirm_is_held_until_they_do():
    assert decided(shown="target") == RollBack()
    for shown in ("neither", None):
        held = decided(shown=shown)
        assert isinstance(held, Hold)
        assert held.code == "unconfirmed"
    assert isinstance(decided(EMPTY), Hold)
    assert isinstance(decided(ERRORS, shown="both"), Hold), "a version behind that fails, too, would not help"


@pytest.mark.parametrize("confirmed_by", ["none", "pairs"])
def test_both_slow_on_one_machine_moves_traffic_at_once(confirmed_by):
    decision = decided(shown="both", is_apart=False, confirmed_by=confirmed_by)
    assert decision == RollBack(), "a version that hogs the machine slows both"


def test_both_slow_apart_holds_for_a_minute():
    assert isinstance(decided(shown="both", is_apart=True), Hold)
    late = (NOW - BOTH_SLOW - f.START) / timedelta(seconds=1)
    assert decided(shown="both", is_apart=True, raised_s=late) == RollBack()


@pytest.mark.parametrize(("raised_s", "held_s"), [(40, 95), (95, 40), (40, None), (None, 40), (40, 40)])
def test_both_slow_holds_for_a_minute_from_the_earlier_of_the_alert_and_the_first_hold(raised_s, held_s):
    """A trigger that is raised again, or another one, makes the hold no longer."""
    about = {"shown": "both", "confirmed_by": "none", "is_apart": True, "can_slice": True}
    about |= {"raised_at": raised_s and f.after(raised_s), "held_at": held_s and f.after(held_s)}
    end = f.after(40) + BOTH_SLOW
    early = decide_confirmed(RollBack(), Doubt(**about), SLOW, end - timedelta(seconds=1))
    assert isinstance(early, Hold)
    assert decide_confirmed(RollBack(), Doubt(**about), SLOW, end) == StartSlice()


def test_a_hold_for_another_reason_stays():
    hold = Hold("cooldown", "a while ago")
    assert decide_confirmed(hold, Doubt(confirmed_by="none", shown="target"), SLOW, NOW) == hold

"""A replay holds what was held for want of a confirmation, until something confirmed it."""

import pytest

from contracts import facts as f
from decisions.replay.doubts import find_doubts
from decisions.replay.engine import replay
from testbed.factories import after, event, fact
from tests.unit.cli.recordings import SLOW, V1, V2, changed, window

BASE = (changed(1, 0.0, 2, 1),)
SLOW_MINUTES = tuple(window(60.0 * number, slow=60 if number > 1 else 0) for number in range(1, 5))


def alert(at, confirmed_by, fact_type=f.AlertRaised, *, kind="latency", **changes):
    about = {"target": V2, "trigger": "slow", "raised_at": after(130.0), "confirmed_by": confirmed_by}
    data = fact(fact_type, **about | changes).model_copy(update={"kind": kind})
    return event(data, id=f"a-{at}", time=after(at))


def started(at):
    return event(fact(f.RollbackStarted, failed=V2, mode="automatic"), id=f"rb-{at}", time=after(at))


def outcomes(*events):
    done = replay((SLOW,), (*BASE, *SLOW_MINUTES, *events), since=after(0.0))
    return [(fired.outcome, fired.code) for fired in done.fired]


def test_what_nothing_confirmed_is_held_as_it_was():
    assert outcomes(alert(130.0, "none")) == [("held", "unconfirmed")]


def test_a_doubt_lasts_from_the_first_alert_that_nothing_confirmed_to_the_one_that_something_did():
    events = [alert(130.0, "none"), alert(140.0, "none", f.AlertUpdated), alert(150.0, "pairs", f.AlertUpdated)]
    events += [alert(160.0, "none", f.AlertUpdated), alert(170.0, "none", f.AlertUpdated)]
    assert find_doubts(events) == {(V2, "latency"): [(after(130.0), after(150.0)), (after(160.0), None)]}


@pytest.mark.parametrize("confirmed_by", ["pairs", "callers", "drill", None])
def test_what_was_confirmed_or_is_older_is_rolled_back(confirmed_by):
    assert outcomes(alert(130.0, confirmed_by)) == [("rolled back", None)]


def test_it_is_rolled_back_once_pairs_or_probes_confirmed_it():
    for confirming in (alert(150.0, "pairs", f.AlertUpdated), started(150.0)):
        held, done = outcomes(alert(130.0, "none"), confirming)
        assert (held, done) == (("held", "unconfirmed"), ("rolled back", None))


def test_an_alert_of_another_kind_or_target_says_nothing():
    assert outcomes(alert(130.0, "none", target=V1)) == [("rolled back", None)]
    assert outcomes(alert(130.0, "none", kind="errors", trigger="errors")) == [("rolled back", None)]


def test_what_was_confirmed_when_it_was_over_rolls_nothing_back():
    quiet = tuple(window(60.0 * number, requests=4) for number in range(5, 9))
    events = (*BASE, *SLOW_MINUTES, *quiet, alert(130.0, "none"), alert(370.0, "pairs", f.AlertUpdated))
    done = replay((SLOW,), events, since=after(0.0))
    assert [(fired.outcome, fired.code) for fired in done.fired] == [("held", "unconfirmed")]
    late = [each for each in done.alerts if isinstance(each, f.AlertUpdated) and each.window.to >= after(370.0)]
    assert late
    assert {each.value for each in late} == {0.0}
    assert isinstance(done.alerts[-1], f.AlertResolved)

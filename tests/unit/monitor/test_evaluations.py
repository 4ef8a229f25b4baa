"""Alerts about evaluations on a schedule: a fall of the active version that two checks show is of its trigger."""

import pytest

from contracts import facts as cf
from contracts.evaluations.results import LimitResult
from services.monitor.domain.evaluations import PREVIOUS, add_check
from services.monitor.domain.monitoring import Rules
from testbed import factories as f
from testbed.values import evaluation
from tests.unit.monitor import factories as m

WORSE = f.trigger(name="worse", metric="evaluation_drop", threshold=0.1)


def check(version, *, fallen, in_a_row=2, decided=True):
    value, decision, verdict = (0.42, "missed", "fail") if fallen else (0.01, "met", "pass")
    if not decided:
        value, decision, verdict = 0.3, "undecided", "inconclusive"
    limit = LimitResult(scorer="exact", kind="max_drop_from_anchor", limit=0.1, value=value, rows=40, decision=decision)
    results = (evaluation(limits=(limit,), verdict=verdict),)
    return cf.EvaluationCheck(target=f.target(version), results=results, is_fallen=fallen, in_a_row=in_a_row)


def after(*facts, state=None):
    policy = m.policy(triggers=(*m.triggers(), WORSE))
    state = state or m.routed(of=m.watch(the_policy=policy))
    for number, checks in enumerate(facts):
        fact = cf.VersionEvaluated(checked_at=f.after(3600.0 * number), checks=checks, message="worse")
        state = add_check(state, fact, m.cause(3600.0 * number), Rules())
    return state


def test_two_checks_that_show_a_fall_are_an_alert_of_the_trigger_and_two_without_one_end_it():
    state = after([check(7, fallen=True, in_a_row=1)])
    assert m.published(state, cf.AlertRaised) == []
    state = after([check(7, fallen=True)], state=state)
    (raised,) = m.published(state, cf.AlertRaised)
    assert (raised.trigger, raised.kind, raised.value, raised.limit) == ("worse", "quality", 0.42, 0.1)
    state = after([check(7, fallen=False, in_a_row=1)], state=state)
    assert m.published(state, cf.AlertResolved) == []
    state = after([check(7, fallen=False)], state=state)
    assert len(m.published(state, cf.AlertResolved)) == 1


def test_an_alert_that_comes_again_changes_nothing():
    state = after([check(7, fallen=True)], [check(7, fallen=True)])
    assert len(m.published(state, cf.AlertRaised)) == 1


def test_if_the_previous_version_fell_too_the_alert_moves_nothing():
    raised = m.published(after([check(7, fallen=True), check(6, fallen=True)]), cf.AlertRaised)
    assert [(alert.kind, alert.trigger) for alert in raised] == [("quality", None), ("standby", None)]


def test_an_undecided_check_neither_raises_nor_updates_nor_ends_an_alert():
    raised = after([check(7, fallen=True)])
    assert after([check(7, fallen=True, decided=False)], state=raised).alerts == raised.alerts
    assert m.published(after([check(7, fallen=True, decided=False)]), cf.AlertRaised) == []


def test_an_alert_that_waits_ends_if_its_previous_version_falls_and_comes_again_once_that_one_recovered():
    """A rollback may wait for the previous version: it must not follow an update that shows that one fallen."""
    state = after([check(7, fallen=True), check(6, fallen=False)])
    state = after([check(7, fallen=True, in_a_row=3), check(6, fallen=True, in_a_row=1)], state=state)
    assert [alert.trigger for alert in m.published(state, cf.AlertResolved)] == ["worse"]
    assert [alert.trigger for alert in m.published(state, cf.AlertRaised)] == ["worse", None]
    assert m.published(state, cf.AlertUpdated) == []
    state = after([check(7, fallen=True, in_a_row=4), check(6, fallen=False)], state=state)
    assert [alert.trigger for alert in m.published(state, cf.AlertRaised)] == ["worse", None, "worse"]


def test_a_previous_version_that_fell_alone_is_an_alert_about_the_standby():
    state = after([check(7, fallen=False), check(6, fallen=True)])
    (raised,) = m.published(state, cf.AlertRaised)
    assert (raised.kind, raised.target, PREVIOUS in raised.alert_id) == ("standby", f.target(7), True)
    for ends in ([check(7, fallen=False), check(6, fallen=False)], [check(7, fallen=False)]):
        assert len(m.published(after(ends, state=state), cf.AlertResolved)) == 1


@pytest.mark.parametrize("version", [6, 5])
def test_a_version_that_does_not_serve_any_more_raises_nothing(version):
    assert m.published(after([check(version, fallen=True)]), cf.AlertRaised) == []


def test_without_its_trigger_there_is_no_alert():
    assert m.published(after([check(7, fallen=True)], state=m.routed()), cf.AlertRaised) == []

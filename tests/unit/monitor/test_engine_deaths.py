"""Deaths of an engine, as the monitor counts them: an alert names the one caller that was there each time."""

from datetime import timedelta

import pytest

from contracts.facts import AlertRaised, AlertResolved, EngineDeath
from services.monitor.domain.deaths import KEY
from services.monitor.domain.monitoring import Cause, Rules, Sender, add_policy, add_records, assess, follow_route
from services.monitor.domain.record import MonitorState
from testbed import factories as f
from tests.unit.monitor import factories as k


def watched():
    state = MonitorState(model=f.MODEL, environment="production")
    state = add_policy(state, 7, "r-7", f.policy(triggers=k.triggers()), Cause("p-7", f.after(0)))
    route = f.route(active=f.served(7), previous=f.served(6), canary=None, history=(), quarantined=())
    return follow_route(state, route, Cause("route", f.after(0)), Rules())


def outage(at_s, *holders):
    """An answer, a death with the requests that the dead engine fails, and an answer once it is loaded again."""
    death = EngineDeath(died_at=f.after(at_s), holders=holders)
    names = [f"good-{number}" for number in range(10)]
    failed = [
        k.failed(at_s + 0.1 * number, caller=name, holder=name, death=death, e2e_ms=20.0, caused_by="target")
        for number, name in enumerate(names)
    ]
    around = [k.record(at_s + shift, caller=name, holder=name) for shift in (-2.0, 10.0) for name in names]
    return sorted([*around, *failed], key=lambda record: record.scheduled_at)


def seen(outages):
    state = watched()
    for number, records in enumerate(outages):
        state = add_records(state, records, Cause(f"b-{number}", records[-1].scheduled_at), Rules())
    return state


def facts(state, kind):
    return [kind.model_validate(entry.data) for entry in state.outbox if entry.type == kind.TYPE]


def test_the_caller_that_was_there_each_time_has_an_alert_and_the_deaths_confirm_nothing():
    state = seen([outage(100.0 + 30 * number, "bad", f"good-{number}") for number in range(4)])
    raised = {alert.trigger or alert.alert_id: alert for alert in facts(state, AlertRaised)}
    (suspected,) = (alert for name, alert in raised.items() if KEY in name)
    assert (suspected.kind, suspected.severity, suspected.deaths.suspect) == ("engine", "warning", "bad")
    assert "only bad had requests there each time" in suspected.message
    assert raised["errors"].confirmed_by == "none"
    assert raised["errors"].deaths.deaths == 1
    quiet = assess(state, Cause("later", f.after(2000)), Rules())
    assert any(KEY in alert.alert_id for alert in facts(quiet, AlertResolved))


def test_deaths_under_all_kinds_of_callers_confirm_and_name_no_caller():
    state = seen([outage(100.0 + 30 * number, f"good-{number}") for number in range(8)])
    assert not [alert for alert in facts(state, AlertRaised) if KEY in alert.alert_id]
    errors = state.alerts[next(key for key in state.alerts if key.endswith("/errors"))]
    assert errors.confirmed_by == "callers"


def test_the_alert_says_whether_gateways_refuse_the_caller():
    few = seen([outage(100.0 + 30 * number, "bad", f"good-{number}") for number in range(4)])
    most = seen([majority(100.0 + 30 * number) for number in range(4)])
    for state, refused in ((few, True), (most, False)):
        (alert,) = (alert for alert in facts(state, AlertRaised) if KEY in alert.alert_id)
        assert ("Gateways refuse it" in alert.message, "do not refuse it" in alert.message) == (refused, not refused)


def majority(at_s):
    """An outage under requests of one that has most of them."""
    own = [k.record(at_s - 2.0 + 0.01 * number, caller="bad", holder="bad") for number in range(60)]
    return sorted([*own, *outage(at_s, "bad")], key=lambda record: record.scheduled_at)


def test_deaths_of_more_than_an_hour_ago_are_not_in_an_alert():
    state = seen([outage(100.0 + 30 * number, "bad", f"good-{number}") for number in range(4)])
    later = assess(state, Cause("later", f.after(4000)), Rules())
    assert [len(target.deaths.deaths) for target in later.targets.values() if target.role == "active"] == [0]


def by_clock(record, offset_s):
    """A record by a clock that is so many seconds ahead."""
    ahead = timedelta(seconds=offset_s)
    death = record.death and record.death.model_copy(update={"died_at": record.death.died_at + ahead})
    times = {"scheduled_at": record.scheduled_at + ahead, "sent_at": record.sent_at + ahead}
    return record.model_copy(update={**times, "death": death})


@pytest.mark.parametrize("offset_s", [300.0, -300.0, 0.0])
def test_an_engine_is_dead_since_it_died_whatever_the_clock_of_a_gateway_shows(offset_s):
    records = [record for record in outage(100.0, "bad") if record.scheduled_at < f.after(109)]
    shifted = [by_clock(record, offset_s) for record in records]
    sender = Sender("gateway-1", offset_s, f.after(102.0))
    state = add_records(watched(), shifted, Cause("b-1", f.after(102.0)), Rules(), sender)
    (alert,) = (alert for alert in facts(state, AlertRaised) if alert.trigger == "errors")
    assert alert.deaths.dead_since == f.after(100.0)

"""Wrong clocks: what a gateway sends is still seen, at the right time, and the right party is named."""

from datetime import timedelta

import pytest

from contracts.facts import AlertRaised, AlertResolved
from services.monitor.domain import monitoring as watching
from services.monitor.domain.clocks import BATCHES, FORGOTTEN, find_wrong_clocks, note_clock
from services.monitor.domain.monitoring import Cause, Sender
from testbed import factories as f
from tests.unit.monitor import factories as m

HOUR = 3600.0
OFFSETS = [HOUR, -HOUR, 45.0, -45.0]


def send(state, records, at, *, gateway="gateway-east-1", offset=0.0, own=0.0):
    """Take a batch that a gateway sent at a time by the bus's clock, with its own clock off by so much."""
    shifted = [
        record.model_copy(
            update={name: getattr(record, name) + timedelta(seconds=offset) for name in ("scheduled_at", "sent_at")}
        )
        for record in records
    ]
    cause = Cause(f"batch-{gateway}-{at}", f.after(at), "correlation", own)
    return watching.add_records(state, shifted, cause, m.RULES, Sender(gateway, offset, f.after(at)))


def sweep(state, at, own=0.0):
    return watching.assess(state, Cause(f"sweep-{at}", f.after(at), own_offset_s=own), m.RULES)


def clock_alerts(state, kind=AlertRaised):
    return [fact for fact in m.published(state, kind) if fact.kind == "clock"]


def slow(at, count=20):
    return [m.record(at, ttft_ms=2000.0, e2e_ms=2500.0) for _ in range(count)]


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_bad_release_is_seen_through_a_gateway_whose_clock_is_wrong(offset):
    state = m.routed()
    for number in range(30):
        state = send(state, slow(10.0 * number), 10.0 * number + 3, offset=offset)
    assert [fact.trigger for fact in m.published(state, AlertRaised) if fact.kind == "latency"] == ["slow-first-token"]
    assert state.implausible == 0


@pytest.mark.parametrize("offset", OFFSETS)
def test_windows_are_the_same_whatever_a_gateway_s_clock_shows(offset):
    right = wrong = m.routed()
    for number in range(30):
        records = [m.record(10.0 * number) for _ in range(5)]
        right = send(right, records, 10.0 * number + 1)
        wrong = send(wrong, records, 10.0 * number + 1, offset=offset)
    (first,), (second,) = right.targets.values(), wrong.targets.values()
    assert (first.windows, first.closed_until_s) == (second.windows, second.closed_until_s)
    assert first.last_at == second.last_at


def test_a_gateway_with_a_wrong_clock_changes_nothing_in_what_others_send():
    state = m.routed()
    for number in range(6):
        state = send(state, [m.record(number)], number + 1.0, offset=HOUR, gateway="gateway-wrong")
        state = send(state, [m.record(number)], number + 1.0, gateway="gateway-right")
    (target,) = state.targets.values()
    assert (target.requests, sum(window.requests for window in target.windows)) == (12, 12)


def test_a_record_that_no_clock_explains_is_left_aside():
    state = m.routed()
    state = send(state, [m.record(HOUR), m.record(1.0)], 2.0, offset=2 * HOUR)
    assert (state.implausible, sum(target.requests for target in state.targets.values())) == (1, 1)


@pytest.mark.parametrize(("offset", "side"), [(HOUR, "ahead of"), (-45.0, "behind")])
def test_the_gateway_is_named_once_and_resolved_when_its_clock_is_right_again(offset, side):
    state = m.routed()
    for number in range(BATCHES):
        assert not clock_alerts(state)
        state = send(state, [m.record(number)], number + 1.0, offset=offset)
    for number in range(5, 15):
        state = send(state, [m.record(number)], number + 1.0, offset=offset)
    (raised,) = clock_alerts(state)
    assert (raised.severity, raised.trigger, raised.value, raised.limit) == ("warning", None, offset, 10.0)
    assert (
        raised.message
        == f"The clock of gateway gateway-east-1 is {abs(offset):.0f} s {side} that of the message bus; 10 s are allowed."
    )
    assert raised.runbook == "docs/runbooks/clock.md"
    state = send(state, [m.record(20)], 21.0)
    assert not clock_alerts(state, AlertResolved)
    state = send(state, [m.record(90)], 91.0)
    assert [alert.alert_id for alert in clock_alerts(state, AlertResolved)] == [raised.alert_id]


def test_one_batch_that_waited_for_the_bus_is_no_wrong_clock():
    state = m.routed()
    for number in range(30):
        state = send(state, [m.record(number)], number + 1.0, offset=-20.0 if number % 3 == 0 else 0.0)
    assert not clock_alerts(state)


def test_a_gateway_that_is_gone_is_alerted_about_no_longer_and_forgotten():
    state = m.routed()
    for number in range(5):
        state = send(state, [m.record(number)], number + 1.0, offset=HOUR)
    for at in (200.0, 310.0, 380.0):
        state = sweep(state, at)
    assert len(clock_alerts(state, AlertResolved)) == 1
    later = FORGOTTEN.total_seconds() + 10
    state = send(state, [m.record(later)], later + 1, gateway="gateway-new")
    assert set(state.clocks) == {"gateway-new"}
    assert not [key for key in state.alerts if "gateway-east-1" in key]


def test_gateways_that_come_and_go_do_not_fill_the_record():
    state = m.routed()
    for number in range(1000):
        state = note_clock(state, f"gateway-{number}", 0.0, f.after(number / 10))
    assert len(state.clocks) <= 256


@pytest.mark.parametrize("own", [HOUR, -HOUR])
def test_the_monitor_s_own_clock_is_named_and_not_the_gateways(own):
    state = m.routed()
    for number in range(5):
        state = send(state, [m.record(number)], number + 1.0, own=own)
    (raised,) = clock_alerts(state)
    assert raised.message.startswith(
        f"The clock of the monitor is 3600 s {'ahead of' if own > 0 else 'behind'} that of the message bus"
    )
    state = sweep(sweep(state, 10.0), 80.0)
    assert len(clock_alerts(state, AlertResolved)) == 1


def test_where_all_others_agree_the_bus_is_named():
    state = m.routed()
    for number in range(5):
        for name in ("gateway-1", "gateway-2"):
            state = send(state, [m.record(number)], number + 1.0, gateway=name, offset=-HOUR + number / 10, own=-HOUR)
    (raised,) = clock_alerts(state)
    assert raised.message.startswith(
        "The clock of the message bus is 3600 s ahead of that of the gateways and of the monitor"
    )


def test_without_a_gateway_to_compare_with_no_clock_is_named_and_nothing_resolved():
    (bus, monitor) = find_wrong_clocks(m.routed(), HOUR, f.after(5))
    assert [(value.fired, value.calm) for value in (bus, monitor)] == [(False, True), (False, False)]
    (bus, monitor) = find_wrong_clocks(m.routed(), 0.0, f.after(5))
    assert [(value.fired, value.calm) for value in (bus, monitor)] == [(False, True), (False, True)]


def test_a_wrong_monitor_and_a_wrong_gateway_are_both_named():
    state = m.routed()
    for number in range(5):
        state = send(state, [m.record(number)], number + 1.0, gateway="gateway-1", offset=HOUR, own=-300.0)
        state = send(state, [m.record(number)], number + 1.0, gateway="gateway-2", own=-300.0)
    named = {clock.key: clock.fired for clock in find_wrong_clocks(state, -300.0, f.after(5))}
    assert named == {"clock-bus": False, "clock-monitor": True, "clock-gateway-1": True, "clock-gateway-2": False}


def test_a_wrong_clock_does_not_keep_drift_from_being_watched():
    state = m.routed()
    for number in range(5):
        state = send(state, [m.record(number)], number + 1.0, offset=HOUR)
    before = len(next(iter(state.targets.values())).drift.columns["prompt_chars"])
    state = send(state, [m.record(10)], 11.0, offset=HOUR)
    assert len(next(iter(state.targets.values())).drift.columns["prompt_chars"]) == before + 1


def test_an_unbelievable_offset_raises_nothing():
    state = send(m.routed(), [m.record(1.0)], 2.0)
    cause = Cause("far", f.after(3), "correlation")
    state = watching.add_records(state, [m.record(2.0)], cause, m.RULES, Sender("gateway-far", -1e12, f.after(3)))
    assert state.clocks["gateway-far"].wrong == 1

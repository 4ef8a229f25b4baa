"""Wrong clocks: what a gateway sends is still seen, at the right time."""

from datetime import timedelta

import pytest

from contracts.facts import AlertRaised
from services.monitor.domain import monitoring as watching
from services.monitor.domain.monitoring import Cause, Sender
from testbed import factories as f
from tests.unit.monitor import factories as m

HOUR = 3600.0
OFFSETS = [HOUR, -HOUR, 45.0, -45.0]


def send(state, records, at, *, gateway="gateway-east-1", offset=0.0):
    """Take a batch that a gateway sent at a time by the bus's clock, with its own clock off by so much."""
    shifted = [
        record.model_copy(
            update={name: getattr(record, name) + timedelta(seconds=offset) for name in ("scheduled_at", "sent_at")}
        )
        for record in records
    ]
    cause = Cause(f"batch-{gateway}-{at}", f.after(at), "correlation")
    return watching.add_records(state, shifted, cause, m.RULES, Sender(gateway, offset, f.after(at)))


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


def test_a_wrong_clock_does_not_keep_drift_from_being_watched():
    state = m.routed()
    for number in range(5):
        state = send(state, [m.record(number)], number + 1.0, offset=HOUR)
    before = len(next(iter(state.targets.values())).drift.columns["prompt_chars"])
    state = send(state, [m.record(10)], 11.0, offset=HOUR)
    assert len(next(iter(state.targets.values())).drift.columns["prompt_chars"]) == before + 1

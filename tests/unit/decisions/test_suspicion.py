"""Requests that look slow: soon enough to ask probes before the alert, and not more often than is cheap."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.suspicion import EVERY_S, STRONG_E, SUSPICIOUS_E, Asked, can_suspect, may_ask, note_newest, suspicion
from testbed import factories as f

SLOW = f.trigger(name="slow", metric="ttft_ms", threshold=800.0, allowed_ratio=0.05)
LAX = f.trigger(name="slow", metric="ttft_ms", threshold=800.0, allowed_ratio=0.5)


def e_value(trigger, *outcomes):
    return math.exp(suspicion(trigger, outcomes))


def test_one_bad_request_is_suspicious_where_few_are_allowed():
    assert e_value(SLOW, *[False] * 7, True) >= SUSPICIOUS_E
    assert e_value(SLOW, *[False] * 6, True, True) >= STRONG_E
    assert e_value(LAX, *[True, False] * 4) < SUSPICIOUS_E
    assert e_value(LAX, *[True] * 8) >= SUSPICIOUS_E


@given(st.lists(st.booleans(), max_size=20), st.lists(st.booleans(), max_size=20))
def test_only_the_newest_count_and_good_ones_are_no_suspicion(before, after):
    newest = note_newest(note_newest((), before), after)
    assert newest == tuple([*before, *after][-8:])
    assert suspicion(SLOW, newest) >= 0.0
    assert suspicion(SLOW, (False,) * len(newest)) == 0.0


@pytest.mark.parametrize(
    ("changes", "may"),
    [({}, True), ({"action": "manual"}, False), ({"metric": "e2e_ms"}, True), ({"metric": "error_ratio"}, False)],
)
def test_what_probes_of_a_slow_version_cannot_show_is_not_suspected(changes, may):
    about = {"name": "slow", "metric": "ttft_ms", "threshold": 800.0} | changes
    if about["metric"] == "error_ratio":
        about["threshold"] = 0.02
    assert can_suspect(f.trigger(**about)) is may


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 30.0)), max_size=60))
def test_whatever_callers_send_probes_are_asked_three_times_in_ten_seconds_at_most(suspicions):
    now_s, last, asked = 0.0, None, []
    for after_s, log_e in suspicions:
        now_s += after_s
        if may_ask(log_e, last, now_s):
            last = Asked(now_s, log_e)
            asked.append(now_s)
    for at_s in asked:
        assert sum(at_s <= each < at_s + EVERY_S for each in asked) <= 2

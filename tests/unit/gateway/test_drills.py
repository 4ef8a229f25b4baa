"""What a drill does: to whom, until when, and what becomes of the text."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.drills import LONGEST
from contracts.trigger_metrics import REPETITIVE
from services.gateway.domain import drills
from services.gateway.domain.drills import DrillEffect
from testbed.factories import target
from tests.kit.drills import NOW, drill
from tests.unit.gateway.fake_describer import describe

IDS = [f"request-{number}" for number in range(4000)]
SOON_S = 1000.0


def effect(active, request_id="r", *, at_s=0.0, clock_s=None, of=None):
    """Ask what `one`, heard at NOW, does to a request so many seconds later, by both clocks unless told apart."""
    known = drills.note_drill(active, NOW, SOON_S)
    later = timedelta(seconds=at_s if clock_s is None else clock_s)
    return drills.decide_effect(known, of or target(7), request_id, NOW + later, SOON_S + at_s)


def touched(active) -> set[str]:
    return {request_id for request_id in IDS if effect(active, request_id)}


def within(share: float, count: int) -> float:
    """Four standard deviations of a share of so many draws."""
    return 4 * (share * (1 - share) / count) ** 0.5


def test_a_drill_touches_its_target():
    active = drill()
    assert effect(active) == DrillEffect("drill-1", delay_s=0.8, until_s=SOON_S + 60.0, fault=active.fault)


@pytest.mark.parametrize("other", [target(8), target(7, "bf16"), target(7, model="other")])
def test_another_target_is_left_alone(other):
    assert effect(drill(), of=other) is None


@pytest.mark.parametrize(("at_s", "on"), [(0.0, True), (59.999, True), (60.0, False), (3600.0, False)])
def test_it_ends_at_its_expiry(at_s, on):
    assert (effect(drill(lasts_s=60), at_s=at_s) is not None) == on


def test_none_lasts_longer_than_the_longest():
    endless = drill(lasts_s=1e6)
    assert effect(endless, at_s=LONGEST.total_seconds() - 1)
    assert effect(endless, at_s=LONGEST.total_seconds()) is None
    # Written by a clock that is a day ahead: the record's own end is far away, ours is not.
    ahead = drill(NOW + timedelta(days=1))
    assert effect(ahead, at_s=LONGEST.total_seconds() - 1)
    assert effect(ahead, at_s=LONGEST.total_seconds()) is None


def eighths(least, most):
    """Seconds that floats and microseconds both hold exactly."""
    return st.integers(least * 8, most * 8).map(lambda count: count / 8)


@given(eighths(0, 10**7), *[eighths(-(10**7), 10**7)] * 3)
def test_whatever_the_clocks_say_it_ends(at_s, clock_s, lasts_s, starts_s):
    active = drill(lasts_s=lasts_s, starts_at=NOW + timedelta(seconds=starts_s))
    result = effect(active, at_s=at_s, clock_s=clock_s)
    if at_s >= min(lasts_s, LONGEST.total_seconds()) or clock_s >= lasts_s:
        assert result is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_share_zero_is_no_request_and_share_one_every_request(drill_id, request_id):
    assert effect(drill(drill_id=drill_id, share_ratio=0.0), request_id) is None
    assert effect(drill(drill_id=drill_id, share_ratio=1.0), request_id) is not None


def test_a_fault_that_does_nothing_affects_no_request():
    assert effect(drill(fault={})) is None


@given(st.floats(0, 1), st.floats(0, 1), st.text(max_size=40))
def test_a_larger_share_touches_whom_the_smaller_one_did(first, second, request_id):
    low, high = sorted((first, second))
    if effect(drill(share_ratio=low), request_id):
        assert effect(drill(share_ratio=high), request_id)


@pytest.mark.parametrize("share", [0.02, 0.25, 0.5, 0.9])
def test_the_share_is_evenly_spread(share):
    among = touched(drill(share_ratio=share))
    assert len(among) / len(IDS) == pytest.approx(share, abs=within(share, len(IDS)))
    for start in range(0, len(IDS), 500):  # in every stretch of requests, not only in all
        part = sum(request_id in among for request_id in IDS[start : start + 500]) / 500
        assert part == pytest.approx(share, abs=1.5 * within(share, 500))


def test_another_drill_draws_other_requests():
    first, second = touched(drill(share_ratio=0.5)), touched(drill(drill_id="drill-2", share_ratio=0.5))
    assert len(first & second) / len(first) == pytest.approx(0.5, abs=within(0.5, len(first)))


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_who_fails_is_drawn_a_second_time_among_the_touched(share):
    active = drill(share_ratio=share, fault={"error_ratio": 0.4})
    among = touched(active)
    failed = sum(effect(active, request_id).fails for request_id in among)
    assert failed / len(among) == pytest.approx(0.4, abs=within(0.4, len(among)))


@pytest.mark.parametrize(
    ("fault", "alteration"),
    [
        ({"garble": True}, "garble"),
        ({"answer": "empty"}, "empty"),
        ({"answer": "refusal"}, "refusal"),
        ({"garble": True, "answer": "refusal"}, "refusal"),
        ({"delay_ms": 5}, None),
    ],
)
def test_what_becomes_of_the_text(fault, alteration):
    assert effect(drill(fault=fault)).alteration == alteration


def test_faults_come_together():
    active = drill(
        fault={"delay_ms": 250, "queue_delay_ms": 50, "token_delay_ms": 7, "error_ratio": 1.0, "garble": True}
    )
    together = effect(active)
    assert (together.delay_s, together.token_delay_s) == (0.3, 0.007)
    assert (together.fails, together.alteration, together.fault) == (True, "garble", active.fault)


def test_no_request_is_held_longer_than_the_drill_lasts():
    assert effect(drill(lasts_s=10, fault={"delay_ms": 600_000}), at_s=7.0).delay_s == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("drill_id", "label"),
    [("0d9f3c1e-7", "0d9f3c1e-7"), ("a/b:c", "a/b:c"), ("a b\r\nset-cookie: x", "a%20b%0D%0Aset-cookie:%20x")],
)
def test_the_label_fits_into_a_header(drill_id, label):
    assert DrillEffect(drill_id).headers == {"x-slipway-drill": label}
    assert drill_id in DrillEffect(drill_id).failure


def altered(alteration, pieces) -> str:
    """Alter an answer piece by piece, as a stream does."""
    given_so_far = ""
    for text, tokens in pieces:
        given_so_far += drills.alter(alteration, text, tokens, first=not given_so_far)
    return given_so_far


answers = st.lists(st.tuples(st.text(max_size=20), st.integers(0, 5)), max_size=80)


@given(answers)
def test_without_an_alteration_the_text_is_left_alone(pieces):
    assert altered(None, pieces) == "".join(text for text, _ in pieces)


@given(answers)
def test_a_garbled_answer_goes_round_in_circles(pieces):
    result = describe("x", altered("garble", pieces))
    if any(text for text, _ in pieces):
        assert result.repetition_ratio > REPETITIVE
        assert (result.empty, result.refusal) == (False, False)
    else:
        assert result.empty


@given(answers)
def test_an_empty_answer_has_no_text_at_all(pieces):
    assert altered("empty", pieces) == ""


@given(answers.filter(bool))
def test_a_refusal_is_recognised_whatever_the_answer_was(pieces):
    text = altered("refusal", pieces)
    assert text == drills.REFUSAL
    result = describe("x", text)
    assert (result.refusal, result.empty) == (True, False)
    assert result.repetition_ratio < REPETITIVE

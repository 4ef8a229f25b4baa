"""Several keys in one hand: pairs of callers with at most half of the requests confirm nothing, those of all do."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decisions.confirmation import confirm
from decisions.engine_deaths import DeathLog
from decisions.observation import fresh_trigger
from decisions.pair_callers import RECENT_DIFFERING, CallerPairs, PairCallers, needed_log_e
from decisions.pair_shares import PART, are_from_most, log_e_without_half
from decisions.pairs import fresh_test, is_confirmed, observe_mirrored
from testbed import factories as f

EMPTY = f.trigger(name="empty", metric="empty_ratio", threshold=0.02)
HONEST, PER_PAIR, PAIRS = 20, 10, 250
"""Honest callers, requests for each pair, and pairs of a run."""


class Watched:
    """What the monitor knows: pairs, and the requests of each holder."""

    def __init__(self) -> None:
        self.test, self.requests = fresh_test(canary=False), dict[str, int]()

    def take(self, name, *, bad, other=False):
        self.test = observe_mirrored(self.test, target=bad, other=other, caller=name, alpha=EMPTY.alpha)
        self.note(name)

    def note(self, name):
        self.requests[name] = self.requests.get(name, 0) + 1

    @property
    def confirmed_by(self):
        state = fresh_trigger("active").model_copy(update={"mirrored": self.test})
        return confirm(EMPTY, state, drilled=False, deaths=DeathLog(requests=self.requests))


def attacked(seed, keys, share, noise, honest=HONEST):
    """Yield what is known after each pair, while keys in one hand repeat a prompt that only the target fails."""
    draw, watched = random.Random(seed), Watched()
    for number in range(PAIRS * PER_PAIR):
        is_bad = draw.random() < share
        name = f"bad-{draw.randrange(keys)}" if is_bad else f"good-{draw.randrange(honest)}"
        if number % PER_PAIR:
            watched.note(name)
            continue
        differs, on_target = draw.random() < noise, draw.random() < 0.5
        watched.take(name, bad=is_bad or (differs and on_target), other=not is_bad and differs and not on_target)
        yield watched


def test_fifty_keys_among_a_thousand_callers_confirm_seldom():
    many = (any(w.confirmed_by == "pairs" for w in attacked(seed, 50, 0.2, 0.02, honest=1000)) for seed in range(10))
    assert sum(many) <= 1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 5, 50]), st.floats(0.02, 0.4))
def test_keys_of_no_team_with_less_than_half_of_the_requests_confirm_nothing(seed, keys, share):
    for watched in attacked(seed, keys, share, 0.0):
        assert watched.confirmed_by != "pairs"


@pytest.mark.parametrize("keys", [2, 5, 50])
def test_keys_with_just_half_of_the_requests_confirm_seldom(keys):
    """They have more than half of those that were counted every other time: three standard deviations are left out."""
    confirmed = sum(any(w.confirmed_by == "pairs" for w in attacked(seed, keys, 0.5, 0.0)) for seed in range(15))
    assert confirmed <= 1


def test_keys_that_each_had_their_part_of_the_evidence_confirmed_before():
    """Without the shares of requests, five keys with a twentieth of them confirm."""
    *_, watched = attacked(1, 5, 0.05, 0.0)
    assert is_confirmed(EMPTY, watched.test)


@pytest.mark.parametrize(("keys", "share"), [(1, 0.1), (1, 0.4), (5, 0.2), (5, 0.4), (50, 0.4)])
def test_chance_differences_of_others_help_them_seldom(keys, share):
    confirmed = sum(any(w.confirmed_by == "pairs" for w in attacked(seed, keys, share, 0.1)) for seed in range(15))
    assert confirmed <= 1


@pytest.mark.parametrize("callers", [1, 2, 3, 10, 40, 100, 1000])
def test_a_regression_that_all_callers_meet_is_confirmed(callers):
    draw, watched = random.Random(callers), Watched()
    for _ in range(1500):
        differs, on_target = draw.random() < 0.3, draw.random() < 0.85
        for _ in range(PER_PAIR - 1):
            watched.note(f"key-{draw.randrange(callers)}")
        name = f"key-{draw.randrange(callers)}"
        watched.take(name, bad=differs and on_target, other=differs and not on_target)
        if watched.confirmed_by == "pairs":
            return
    pytest.fail(f"{callers} callers did not confirm")


def test_a_caller_with_most_of_the_requests_confirms_beside_others():
    watched = Watched()
    for number in range(64):
        watched.take("shop" if number % 4 else f"key-{number}", bad=False)
    for _ in range(40):
        watched.take("shop", bad=True)
    assert watched.confirmed_by == "pairs"


def test_where_records_name_no_callers_nothing_is_left_out():
    test = fresh_test(canary=False)
    for _ in range(13):
        test = observe_mirrored(test, target=True, other=False, caller=None, alpha=EMPTY.alpha)
    assert are_from_most(test.holders, {}, EMPTY.alpha)


def test_pairs_that_halving_leaves_to_no_caller_speak_for_none():
    """Of fifty keys with few pairs each: the halves of odd numbers belonged to no caller, and so confirmed."""
    watched = Watched()
    for number in range(RECENT_DIFFERING + 40):
        watched.take(f"bad-{number % 50}", bad=True)
    known = watched.test.holders.known.values()
    assert watched.test.holders.target == sum(pairs.target for pairs in known)


counted = st.builds(CallerPairs, recent=st.integers(0, 50), target=st.integers(0, 30), other=st.integers(0, 30))


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), counted, min_size=1), st.sets(st.sampled_from("abcdefgh")), st.data()
)
def test_no_callers_with_half_of_the_requests_carry_what_confirms(known, chosen, data):
    """Whichever they are: without their pairs against the target, what is left shows the part by itself."""
    requests = {name: data.draw(st.integers(0, 200)) for name in known}
    counts = {name: max(pairs.recent, requests[name]) for name, pairs in known.items()}
    chosen &= set(known)
    total = sum(counts.values())
    if 2 * sum(counts[name] for name in chosen) > total:
        return
    alike = {name: CallerPairs(recent=p.recent, other=p.other) if name in chosen else p for name, p in known.items()}

    def holders(of):
        target, other = sum(p.target for p in of.values()), sum(p.other for p in of.values())
        return PairCallers(known=of, recent=sum(p.recent for p in of.values()), target=target, other=other)

    if are_from_most(holders(known), requests, EMPTY.alpha):
        rest = {name: p for name, p in alike.items() if name not in chosen}
        net = sum(p.target - p.other for p in rest.values())
        assert net > 0
        assert log_e_without_half(holders(known), requests) >= PART * needed_log_e(EMPTY.alpha)

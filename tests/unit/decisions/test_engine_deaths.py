"""Deaths of an engine: no callers with at most half of the requests make them evidence, and its own ones are."""

import itertools
import random
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.facts import DeathCounts, EngineDeath
from decisions import engine_deaths
from decisions.confirmation import confirm
from decisions.engine_deaths import DeathLog, find_causes, find_suspect, note_record, recent, with_death
from decisions.findings import describe_deaths
from decisions.observation import fresh_trigger, observe_outcomes
from decisions.observe_loop import AlertRules, WatchedTarget, assess
from decisions.rollback import Doubt, Hold, RollBack, decide_confirmed
from decisions.triggers import CANCELLED, outcomes_of
from testbed import factories as f

ERRORS = f.trigger(name="errors", metric="error_ratio", threshold=0.02)
ENDPOINT = "a:1"


def good(at_s, holder="shop", endpoint=ENDPOINT, **changes):
    at = {"scheduled_at": f.after(at_s), "sent_at": f.after(at_s)}
    about = {"endpoint": endpoint, "holder": holder, "caller": holder, "error": None, "drill": None}
    return f.inference(**(about | at | changes))


def cancelled(at_s):
    """A request that its caller gave up, before any part of an answer."""
    return good(at_s, finish_reason=CANCELLED, caused_by="caller", output_tokens=0, ttft_ms=None)


def died(at_s, *holders, caller="shop", others=0, endpoint=ENDPOINT, seen_s=None):
    death = EngineDeath(died_at=f.after(at_s), holders=holders, others=others)
    return f.inference(
        endpoint=endpoint,
        holder=caller,
        caller=caller,
        error="engine_dead",
        caused_by="target",
        finish_reason=None,
        drill=None,
        scheduled_at=f.after(at_s if seen_s is None else seen_s),
        sent_at=f.after(at_s if seen_s is None else seen_s),
        death=death,
    )


def log_of(*records):
    log = DeathLog()
    for record in records:
        log = note_record(log, record)
    return log


def confirmed(records):
    log = log_of(*records)
    records = [with_death(log, record) for record in records]
    state = observe_outcomes(fresh_trigger("active"), ERRORS, outcomes_of(ERRORS, records))
    return confirm(ERRORS, state, drilled=False, deaths=log)


def outage(at_s, *holders):
    """A death, the requests of all others that the dead engine fails, and an answer after it is loaded again."""
    failed = [died(at_s, *holders, caller=f"good-{number}", seen_s=at_s + number) for number in range(10)]
    return [good(at_s - 1, f"good-{int(at_s) % 10}"), *failed, good(at_s + 11, f"good-{int(at_s) % 10}")]


def test_the_failures_of_a_dead_engine_are_one_death_whoever_meets_them():
    assert confirmed(outage(100, "bad")) == "none"
    assert log_of(*outage(100, "bad")).counts == DeathCounts(deaths=1, holders=1)


def test_one_caller_that_kills_again_and_again_confirms_nothing_and_is_named():
    records = [record for number in range(6) for record in outage(100 + 20 * number, "bad", f"good-{number}")]
    assert confirmed(records) == "none"
    counts = log_of(*records).counts
    assert (counts.deaths, counts.suspect, counts.dead_since) == (6, "bad", None)


def outages_of_six_callers():
    """Deaths under callers that have most of the requests, of which there were enough before to know it."""
    before = [good(number / 2, f"good-{number % 10}") for number in range(160)]
    return before + [record for number in range(6) for record in outage(100 + 20 * number, f"good-{number}")]


def test_deaths_under_callers_with_more_than_half_of_the_requests_confirm():
    assert confirmed(outages_of_six_callers()) == "callers"


@pytest.mark.parametrize("seed", range(40))
def test_callers_with_just_half_of_the_requests_have_more_by_chance_and_confirm_nothing(seed):
    """Each tenth of their requests kills; five keys in turn, so that all of them are needed to explain the deaths."""
    draw, log, back_s, death = random.Random(seed), DeathLog(), 0, died(0)
    for at_s in range(1200):
        hostile = draw.random() < 0.5
        sender = f"bad-{draw.randrange(5)}" if hostile else f"good-{draw.randrange(20)}"
        if at_s >= back_s and hostile and draw.random() < 0.1:
            back_s, death = at_s + 10, died(at_s, sender)
        failed = death.model_copy(update={"holder": sender}) if at_s < back_s else None
        log = note_record(log, failed or good(at_s, sender))
        assert log.is_explained


def test_two_callers_that_come_first_have_most_of_the_first_requests_and_confirm_nothing():
    before = [good(number, f"bad-{number % 2}") for number in range(6)]
    assert log_of(*before, *outage(100, "bad-0"), *outage(120, "bad-1")).is_explained


def test_requests_of_more_callers_than_are_counted_each_count_in_all():
    """Two keys with a fifth of the requests, among two thousand callers."""
    draw, log = random.Random(1), DeathLog()
    for number in range(6000):
        hostile = number % 5 == 0
        log = note_record(log, good(number / 100, f"bad-{number % 2}" if hostile else f"good-{draw.randrange(2000)}"))
    log = note_record(log, died(100, "bad-0"))
    log = note_record(log, good(111))
    log = note_record(log, died(120, "bad-1"))
    log = note_record(log, good(131))
    assert log.is_explained
    assert 0.1 < log.share_ratio < 0.2, "chance is subtracted"
    assert len(log.requests) <= engine_deaths.MOST_HOLDERS + 1
    assert engine_deaths.RECENT_REQUESTS / 2 <= sum(log.requests.values()) <= engine_deaths.RECENT_REQUESTS


def test_a_death_with_nobodys_request_is_the_engines_own():
    assert confirmed(outage(100)) == "callers"


def test_one_that_has_most_of_the_requests_is_no_evidence_alone():
    records = [record for number in range(5) for record in (good(20 * number), *outage(100 + 20 * number, "good-1"))]
    assert confirmed(records) == "none"


def test_what_a_gateway_cannot_name_shows_nothing():
    records = [died(10 * at, "bad", f"x-{at}", others=9) for at in range(5)]
    assert log_of(*records).is_explained


def test_other_failures_of_several_callers_still_confirm_beside_a_death():
    failed = [good(at, f"good-{at % 9}").model_copy(update={"error": "engine_failed"}) for at in range(40)]
    assert confirmed([*outage(100, "bad"), *failed]) == "callers"


def test_gateways_that_see_one_death_count_it_once_with_all_holders():
    log = log_of(died(100, "a"), died(102, "b"), died(130, "c"))
    assert [death.holders for death in log.deaths] == [("a", "b", "c")], "nothing was answered in between"
    log = log_of(died(100, "a"), good(111), died(112, "b"), died(100, "c"))
    assert [death.holders for death in log.deaths] == [("a", "c"), ("b",)]
    assert log.counts.dead_since == f.after(112)


BEFORE = [
    good(number / 10, "bad" if number % 5 == 0 else "large" if number % 5 < 3 else "small") for number in range(990)
]
"""Requests of which one caller has a fifth, and two others two fifths each."""


def killed(*holders, outages=3):
    """Outages under requests of some callers."""
    moments = range(100, 100 + 20 * outages, 20)
    return [record for at_s in moments for record in (died(at_s, *holders), good(at_s + 11, "large"))]


def test_a_death_is_no_evidence_before_all_gateways_may_have_named_who_had_requests_there():
    """One caller kills through one gateway; the report of the other gateway, which names another caller, comes first."""
    log = note_record(log_of(*BEFORE, *killed("bad")), died(160, "large"))
    assert log.is_explained
    assert note_record(log, good(171)).counts.explained is False, "no other gateway had requests there"
    log = note_record(log, died(161, "bad"))
    assert (log.is_explained, note_record(log, good(171)).is_explained) == (True, True)


def test_a_caller_is_no_suspect_before_all_gateways_may_have_named_who_had_requests_there():
    log = note_record(log_of(*BEFORE, *killed("bad", "large", outages=2)), died(140, "large"))
    assert log.counts.suspect is None
    assert note_record(log, good(151)).counts.suspect == "large"
    assert note_record(note_record(log, died(141, "bad")), good(151)).counts.suspect is None


def test_requests_without_a_name_are_no_suspect_and_explain_no_death():
    """As of gateways of before, where a candidate was asked unseen at the same endpoint: deaths show nothing."""
    moments = range(100, 260, 20)
    deaths = [record for at_s in moments for record in (died(at_s, f"killer-{at_s}", ""), good(at_s + 11))]
    unnamed = log_of(*BEFORE, *deaths)
    assert (unnamed.counts.suspect, unnamed.causes) == (None, ())


def test_endpoints_die_each_for_itself():
    log = log_of(died(100, "a"), good(105, endpoint="b:1"), died(106, "b", endpoint="b:1"))
    assert len(log.deaths) == 2
    assert log_of(died(100, "a"), good(105, endpoint="b:1")).counts.dead_since == f.after(100)


def test_an_answer_to_a_request_from_before_the_death_ends_no_outage():
    assert log_of(died(100, "a"), good(99)).counts.dead_since == f.after(100)


def test_a_request_that_its_caller_cancels_ends_no_outage():
    log = log_of(died(100, "a"), cancelled(110))
    assert log.counts.dead_since == f.after(100)
    log = log_of(died(100, "a"), cancelled(102), died(104, "b"))
    assert [death.holders for death in log.deaths] == [("a", "b")], "two gateways saw one death"


def test_an_answer_that_another_gateways_clock_puts_after_the_death_ends_no_outage():
    assert log_of(died(100, "a"), good(104)).counts.dead_since == f.after(100)
    assert log_of(died(100, "a"), good(106)).counts.dead_since is None


def test_an_embedding_ends_an_outage():
    assert log_of(died(100, "a"), good(110, finish_reason=None, output_tokens=0)).counts.dead_since is None


def test_a_request_that_waited_for_the_engine_ends_the_outage_when_it_was_sent():
    log = log_of(died(100, "a"), good(106, sent_at=f.after(112)), died(108, "b"))
    assert [death.holders for death in log.deaths] == [("a", "b")]


def test_a_gateway_that_missed_the_answers_in_between_reports_another_death():
    log = log_of(died(100, "a"), good(111), died(100, "a", seen_s=200))
    assert log.counts.dead_since == f.after(200), "not since the first one: it is dead again"
    assert log.is_explained, "of the second death no holder is known"
    log = note_record(log, died(199, "b"))
    assert [(death.holders, death.is_open) for death in log.deaths] == [(("a",), False), (("b",), False)]
    assert log_of(died(100, "a"), good(111), died(199, "b"), died(100, "a", seen_s=200)).counts.deaths == 2
    assert log_of(died(100, "a"), good(111), died(100, "a", seen_s=109)).counts.dead_since is None, "it came late"


def test_a_death_that_a_clock_dates_after_the_request_that_met_it_is_of_that_request():
    """The clock of a gateway was an hour ahead, and was set right before its other requests failed."""
    log = log_of(died(3700, "a", seen_s=101), died(3700, "a", seen_s=103))
    assert (len(log.deaths), log.counts.dead_since < f.after(103)) == (1, True)
    assert note_record(log, good(120)).counts.dead_since is None


class Gateway:
    """What one gateway reports of an engine (`services.gateway.engine_deaths`)."""

    def __init__(self):
        self.is_alive, self.death = False, None

    def ask(self, at_s, caller, *, dead, cancels):
        if cancels:
            return cancelled(at_s)
        if not dead:
            self.is_alive = True
            return good(at_s, caller)
        if self.is_alive:
            self.is_alive, self.death = False, EngineDeath(died_at=f.after(at_s), holders=(caller,))
        return died(at_s, caller=caller).model_copy(update={"death": self.death})


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 120), st.integers(6, 90)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2), st.booleans()), min_size=20, max_size=120),
)
def test_gateways_count_no_outage_twice_nor_from_an_earlier_time_whoever_cancels(outages, requests):
    gateways, log, at_s, answered = [Gateway() for _ in range(3)], DeathLog(), 0, []
    spans, end_s = [], 0
    for after_s, lasts_s in outages:
        spans.append((end_s + after_s, end_s + after_s + lasts_s))
        end_s = spans[-1][1]
    for wait_s, number, cancels in requests:
        at_s += wait_s
        dead = any(began <= at_s < ended for began, ended in spans)
        log = note_record(log, gateways[number].ask(at_s, f"c-{number}", dead=dead, cancels=cancels))
        if not dead and not cancels:
            answered.append(f.after(at_s))
        counts = log.counts
        if counts is not None:
            assert counts.deaths <= sum(began <= at_s for began, _ in spans)
            since = counts.dead_since
            assert since is None or not any(at - since > engine_deaths.SAME for at in answered)


def test_deaths_of_more_than_an_hour_ago_say_nothing_at_an_assessment():
    log = log_of(*outages_of_six_callers())
    watched = WatchedTarget(target=f.target(7), role="active", deaths=log)
    assert not log.is_explained
    for now_s, deaths in ((210, 6), (3790, 1), (3800, 0)):
        after = assess(watched, {}, [ERRORS], f.after(now_s), rules=AlertRules()).watched.deaths
        assert (after, len(after.deaths)) == (recent(log, f.after(now_s)), deaths)
    assert recent(log, f.after(3790)).is_explained, "the one that is left has one caller"
    assert recent(log, f.after(3800)).counts is None
    assert recent(log, f.after(210)) is log


def test_a_request_through_a_gateway_that_never_saw_the_engine_alive_is_of_the_same_death():
    log = log_of(died(100, "a"))
    unseen = died(105).model_copy(update={"death": None})
    assert with_death(log, unseen).death.died_at == f.after(100)
    assert with_death(DeathLog(), unseen).death is None


def unseen(at_s, caller, since_s=100):
    """A request that a dead engine failed, through a gateway that has not seen it alive since it was started."""
    return died(since_s, caller=caller, others=1, seen_s=at_s)


def test_requests_that_a_dead_engine_fails_are_of_one_death_also_where_no_gateway_saw_it_alive():
    """As the first request after a start of a gateway, or to a version, that kills the engine."""
    failed = [unseen(100 + number / 2, f"good-{number}") for number in range(20)]
    assert confirmed(failed) == confirmed([*failed, good(115)]) == "none"
    log = log_of(*failed)
    assert (log.counts.deaths, log.counts.explained, log.counts.dead_since) == (1, True, f.after(100))
    assert note_record(log, good(115)).counts.dead_since is None


def test_a_gateway_that_saw_nothing_leaves_a_death_that_others_name_as_it_is():
    log = log_of(unseen(100, "good"), died(101, "bad"), unseen(103, "good"), good(111), unseen(104, "late"))
    assert [(death.holders, death.is_open) for death in log.deaths] == [(("bad",), False)]
    assert log.counts.dead_since is None


def test_deaths_are_forgotten_after_an_hour():
    records = [died(100, "a"), good(120), died(3800, "b")]
    assert log_of(*records).counts.deaths == 1


def test_an_alert_says_of_deaths_what_is_known_of_their_cause():
    single, unknown, own = (
        DeathCounts(deaths=1, holders=1),
        DeathCounts(deaths=2),
        DeathCounts(deaths=2, explained=False),
    )
    assert "requests of 1 caller may explain it" in describe_deaths(single)
    assert "not known who had requests there" in describe_deaths(unknown)
    assert "do not explain it" in describe_deaths(own)
    assert "do not explain it" in describe_deaths(own.model_copy(update={"holders": 7}))
    assert "only caller bad had requests" in describe_deaths(single.model_copy(update={"suspect": "bad"}))
    assert describe_deaths(None) == ""


def test_a_suspect_is_the_only_one_that_was_always_there():
    assert find_suspect([frozenset("ab"), frozenset("ac")]) == "a"
    assert find_suspect([frozenset("ab"), frozenset("ab")]) is None
    assert find_suspect([frozenset("a")]) is None


names = st.sampled_from("abcdefgh")
sets = st.lists(st.frozensets(names, min_size=1, max_size=4), min_size=1, max_size=6)
counts = st.dictionaries(names, st.integers(0, 50))


@given(sets, counts)
def test_the_causes_are_those_with_the_smallest_share(deaths, requests):
    causes, share = find_causes(deaths, requests)
    assert all(not death.isdisjoint(causes) for death in deaths)
    if frozenset.intersection(*deaths):
        assert len(causes) == 1
        return
    total = max(1, sum(requests.values()))
    every = itertools.chain.from_iterable(itertools.combinations("abcdefgh", size) for size in range(1, 7))
    costs = (sum(requests.get(name, 0) for name in chosen) for chosen in every if hits(chosen, deaths))
    assert share == min(1.0, min(costs) / total)


def hits(chosen, deaths):
    return all(not death.isdisjoint(chosen) for death in deaths)


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 50), st.floats(0.01, 0.5))
def test_no_number_of_keys_with_at_most_half_of_the_requests_makes_deaths_evidence(seed, keys, share):
    """The attacker chooses the time of each death, and so whose requests are there beside its own."""
    draw = random.Random(seed)
    records, at_s = [], 0.0
    for number in range(200):
        at_s += 1
        hostile = number % 100 < int(100 * share)
        sender = f"bad-{draw.randrange(keys)}" if hostile else f"good-{draw.randrange(20)}"
        records.append(good(at_s, sender))
    log = log_of(*records)
    for number in range(30):
        others = [f"good-{draw.randrange(3)}" for _ in range(draw.randrange(4))]
        at_s += 20
        log = note_record(log, died(at_s, f"bad-{draw.randrange(keys)}", *others, caller=f"good-{number % 20}"))
        log = note_record(log, good(at_s + 11, f"good-{number % 20}"))
        assert log.is_explained


def test_too_many_combinations_are_no_evidence(monkeypatch):
    monkeypatch.setattr(engine_deaths, "MOST_BRANCHES", 3)
    deaths = [frozenset(f"{number}-{at}" for at in range(9)) for number in range(9)]
    requests = {name: 10 for death in deaths for name in death} | {"0-0": 400, "1-1": 500}
    assert find_causes(deaths, requests)[1] == 0.0


def doubt(shown, **deaths):
    return Doubt(confirmed_by="none", shown=shown, deaths=DeathCounts(deaths=1, holders=1, **deaths))


def test_a_dead_engine_has_time_to_be_loaded_again_where_callers_may_have_killed_it():
    now = f.after(160)

    def decided(doubt, dead_s=60.0):
        return decide_confirmed(RollBack(), doubt, ERRORS, now, dead_s)

    assert isinstance(decided(doubt("target", dead_since=now - timedelta(seconds=59))), Hold)
    assert isinstance(decided(doubt("target", dead_since=now - timedelta(seconds=60))), RollBack)
    assert isinstance(decided(doubt("target")), Hold), "it may have died again since the alert"
    failing = replace(doubt("target"), failing_since=now - timedelta(seconds=59))
    assert isinstance(decided(failing), Hold)
    assert isinstance(decided(replace(failing, failing_since=now - timedelta(seconds=60))), RollBack)
    assert isinstance(decided(doubt("target", explained=False)), RollBack)
    assert isinstance(decided(doubt("target", dead_since=now), dead_s=0.0), RollBack)
    assert isinstance(decided(Doubt("none", "target")), RollBack), "no death is known: it does not answer"
    assert isinstance(decided(Doubt("drill", "target", deaths=DeathCounts(deaths=1))), RollBack)
    assert isinstance(decided(doubt("neither")), Hold)


def test_a_target_that_answers_at_another_endpoint_is_not_dead_and_its_death_is_settled():
    log = log_of(*[good(n / 2, f"good-{n % 10}") for n in range(60)], died(100, "bad"))
    (death,) = log.deaths
    near, later = (good(at, "good-1").model_copy(update={"endpoint": "other:1"}) for at in (102, 110))
    assert note_record(log, near).counts.dead_since == death.at, "another gateway may send it before it knows"
    log = note_record(log, later)
    assert (log.counts.dead_since, log.counts.holders) == (None, 1)
    assert log.deaths[0].over_at is None
    there = later.model_copy(update={"endpoint": "other:1", "error": None})
    assert note_record(log, there).deaths == log.deaths, "the first one counts"
    again = note_record(log, died(300, "bad").model_copy(update={"endpoint": "other:1"}))
    assert again.counts.dead_since == again.deaths[-1].at

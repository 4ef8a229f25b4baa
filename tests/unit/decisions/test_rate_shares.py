"""Several gateways admit together what one would: within a tenth over 10 s, with any skew; all is simulated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.rate_shares import FLOOR, FORGOTTEN_S, TimedReport, remembered, share, smooth
from decisions.request_rates import Allowance

LIMIT = 6000.0
"""Per minute: 100 in a second."""
STEPS_PER_S = 100


class Replica:
    """A gateway: it counts what is asked of it, exchanges that every second, and admits its share."""

    def __init__(self, number: int, phase: int, count: int) -> None:
        self.name, self.phase = str(number), phase
        self.allowance = Allowance(LIMIT / count, 0.0, 0.0)
        self.asked, self.demand, self.reports = 0, 0.0, {}

    def ask(self, now_s: float) -> bool:
        self.asked += 1
        if self.allowance.wait_s(1, now_s) > 0:
            return False
        self.allowance = self.allowance.take(1, now_s)
        return True

    def exchange(self, others, now_s: float) -> None:
        self.demand = smooth(self.demand, self.asked)
        self.asked = 0
        for other in others:
            other.reports[self.name] = TimedReport(now_s, {"key": self.demand})
        self.reports = remembered(self.reports, now_s)
        part = share(self.demand, [report.demand.get("key", 0.0) for report in self.reports.values()])
        self.allowance = self.allowance.with_share(max(1.0, LIMIT * part), now_s)


def admitted(weights, per_second, seconds, change=None, phases=(0, 40, 70)):
    """Return how many requests were admitted in each second."""
    replicas = [Replica(number, phases[number], len(weights)) for number in range(len(weights))]
    counts, owed = [0] * seconds, [0.0] * len(weights)
    for step in range(seconds * STEPS_PER_S):
        now_s = step / STEPS_PER_S
        if change is not None and now_s == seconds // 2:
            weights = change
        for number, replica in enumerate(replicas):
            owed[number] += per_second * weights[number] / sum(weights) / STEPS_PER_S
            while owed[number] >= 1.0:
                owed[number] -= 1.0
                counts[int(now_s)] += replica.ask(now_s)
            if step % STEPS_PER_S == replica.phase:
                replica.exchange([other for other in replicas if other is not replica], now_s)
    return counts


SKEWS = [(1, 1), (9, 1), (50, 1), (1, 0), (1, 1, 1), (20, 5, 1), (1, 0, 0)]


@pytest.mark.parametrize("weights", SKEWS)
@pytest.mark.parametrize("factor", [1.5, 4.0])
def test_together_they_admit_the_limit_within_a_tenth_in_every_10_s(weights, factor):
    counts = admitted(weights, factor * LIMIT / 60, 40)
    sums = [sum(counts[begin : begin + 10]) for begin in range(8, 30)]
    assert all(0.9 * LIMIT / 6 <= total <= 1.1 * LIMIT / 6 for total in sums), sums


@pytest.mark.parametrize(("before", "after"), [((9, 1), (1, 9)), ((1, 0, 0), (0, 0, 1)), ((5, 1, 1), (1, 1, 5))])
def test_a_load_that_moves_from_one_to_another_is_followed(before, after):
    counts = admitted(before, 2 * LIMIT / 60, 40, after)
    sums = [sum(counts[begin : begin + 10]) for begin in (*range(8, 11), *range(24, 30))]
    assert all(0.9 * LIMIT / 6 <= total <= 1.1 * LIMIT / 6 for total in sums), sums
    assert sum(counts[18:28]) <= 1.1 * LIMIT / 6, "never more while it moves"


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=64))
def test_all_shares_add_up_to_one_and_none_is_nothing(demands):
    shares = [share(own, demands[:place] + demands[place + 1 :]) for place, own in enumerate(demands)]
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) > 0.0
    if sum(demands):
        assert min(shares) >= FLOOR / (1 + FLOOR * len(demands)) - 1e-9


def test_one_that_reports_nothing_is_forgotten():
    reports = {"a": TimedReport(0.0, {}), "b": TimedReport(FORGOTTEN_S, {})}
    assert set(remembered(reports, FORGOTTEN_S)) == {"a", "b"}
    assert set(remembered(reports, FORGOTTEN_S + 0.1)) == {"b"}

"""One team's many releases do not hold up another team's one at workers that take work in order."""

from collections import deque
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from decisions.fair_share import may_begin

START = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Workers:
    """A queue in which every team's releases are requested as soon as they may begin."""

    def __init__(self, limit):
        self.limit, self.at_work, self.queue = limit, {}, deque()
        self.waiting: dict[str, dict[str, deque[datetime]]] = {}

    def announce(self, team, model, at):
        self.waiting.setdefault(team, {}).setdefault(model, deque()).append(START + timedelta(seconds=at))
        self.begin()

    def begin(self):
        """Request all that may begin, until nothing more may."""
        while any(self._begin_one(team) for team in self.waiting):
            continue

    def _begin_one(self, team):
        models = self.waiting[team]
        heads = {model: times[0] for model, times in models.items() if times}
        for model in heads:
            if may_begin(model, heads, self.at_work.get(team, 0), self.limit):
                self.at_work[team] = self.at_work.get(team, 0) + 1
                self.queue.append((team, model, models[model].popleft()))
                return True
        return False

    def work(self):
        team, *done = self.queue.popleft()
        self.at_work[team] -= 1
        self.begin()
        return team, *done


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 60), st.integers(0, 20))
def test_a_release_waits_behind_at_most_the_limit_of_each_other_team(limit, models, announced, done_before):
    workers = Workers(limit)
    for number in range(announced):
        workers.announce("a", f"m{number % models}", number)
    done = [workers.work() for _ in range(min(done_before, announced))]
    workers.announce("b", "other", announced)
    before = []
    while (ended := workers.work())[0] != "b":
        before.append(ended)
    assert len(before) <= limit
    while workers.queue:
        done.append(workers.work())
    assert len(before) + len(done) == announced, "nothing waits for ever"


@given(st.integers(1, 4), st.lists(st.integers(0, 2), max_size=30))
def test_one_at_a_time_within_a_team_what_was_announced_first_is_done_first(limit, models):
    workers = Workers(limit)
    for at, model in enumerate(models):
        workers.announce("a", f"m{model}", at)
    done = []
    while workers.queue:
        done.append(workers.work()[2])
    assert done == sorted(done)


def test_a_release_does_not_begin_while_its_team_has_more_at_work_than_a_lower_limit():
    assert not may_begin("m", {"m": START}, 5, 4)

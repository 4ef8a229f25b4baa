"""One team's many releases do not hold up another team's one at workers that take work in order."""

from collections import deque
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.registry.domain.fair_share import TeamWork

START = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Workers:
    """A queue of work in which every team's releases are requested as soon as they may begin.

    A release is made, registered, waits until no other one of its model is in progress, is measured, and then is a canary
    until that ends.
    """

    def __init__(self, limit):
        self.limit, self.queue, self.now = limit, deque(), 0
        self.waiting: dict[str, dict[str, deque[datetime]]] = {}
        self.registered: dict[tuple[str, str], deque[datetime]] = {}
        self.leaving: dict[str, dict[str, datetime]] = {}
        self.canaries: list[tuple[str, str]] = []

    def announce(self, team, model):
        self.waiting.setdefault(team, {}).setdefault(model, deque()).append(self.time())
        self.begin()

    def time(self):
        self.now += 1
        return START + timedelta(seconds=self.now)

    def team_work(self, team):
        at_work = sum(each[0] == team for each in self.queue)
        assert at_work <= self.limit, "whatever it is that they do"
        return TeamWork(self.limit, at_work, self.leaving.get(team, {}))

    def begin(self):
        """Request all that may begin, until nothing more may; admissions ask first, which must not matter."""
        while any(self._admit(team) or self._leave(team) for team in self.waiting):
            continue

    def _admit(self, team):
        models = self.waiting[team]
        heads = {model: times[0] for model, times in models.items() if times}
        for model in heads:
            if self.team_work(team).may_begin(model, heads):
                self.queue.append((team, model, "made", models[model].popleft()))
                return True
        return False

    def _leave(self, team):
        for model in list(self.leaving.get(team, {})):
            if self.team_work(team).may_leave(model):
                self.queue.append((team, model, "measured", self.leaving[team].pop(model)))
                return True
        return False

    def work(self):
        """Do the oldest work; return its team, model, and what was done."""
        team, model, done, at = self.queue.popleft()
        if done == "made":
            self.registered.setdefault((team, model), deque()).append(self.time())
        else:
            self.canaries.append((team, model))
        self._hand_over()
        return team, model, done, at

    def end_canary(self, number):
        self.canaries.pop(number)
        self._hand_over()

    def _hand_over(self):
        for (team, model), registered in self.registered.items():
            busy = (team, model) in self.canaries or model in self.leaving.get(team, {})
            measured = any(each[:3] == (team, model, "measured") for each in self.queue)
            if registered and not busy and not measured:
                self.leaving.setdefault(team, {})[model] = registered.popleft()
        self.begin()


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 60), st.lists(st.integers(0, 9), max_size=40))
def test_a_release_waits_behind_at_most_the_limit_of_each_other_team(limit, models, announced, steps):
    """Also while the other team ends all of its canaries at once, and their queues are full."""
    workers = Workers(limit)
    for number in range(announced):
        workers.announce("a", f"m{number % models}")
    for step in steps:
        if step < 6 and workers.queue:
            workers.work()
        elif workers.canaries and step == 9:
            for _ in range(len(workers.canaries)):
                workers.end_canary(0)
        elif workers.canaries:
            workers.end_canary(step % len(workers.canaries))
    workers.announce("b", "other")
    for phase in ("made", "measured"):
        before = 0
        while (done := workers.work())[0] != "b":
            before += 1
        assert (done[2], before <= limit) == (phase, True)
    while workers.queue or workers.canaries:
        while workers.queue:
            workers.work()
        while workers.canaries:
            workers.end_canary(0)
    left = [*workers.waiting["a"].values(), *workers.registered.values(), *workers.leaving.values()]
    assert not any(left), "nothing waits for ever"


@given(st.integers(1, 4), st.lists(st.integers(0, 2), max_size=30))
def test_within_a_team_what_was_announced_first_is_made_first(limit, models):
    workers = Workers(limit)
    for model in models:
        workers.announce("a", f"m{model}")
    done = []
    while workers.queue or workers.canaries:
        if workers.queue:
            _, _, what, at = workers.work()
            done += [at] if what == "made" else []
        else:
            workers.end_canary(0)
    assert done == sorted(done)


def test_what_leaves_a_queue_goes_before_what_is_to_be_admitted():
    work = TeamWork(2, at_work=1, leaving={"m": START})
    assert work.may_leave("m")
    assert not work.may_begin("n", {"n": START - timedelta(days=1)})
    assert not TeamWork(2, at_work=2, leaving={"m": START}).may_leave("m")
    assert TeamWork(2, at_work=0, leaving={"m": START}).may_begin("n", {"n": START})


def test_a_release_does_not_begin_while_its_team_has_more_at_work_than_a_lower_limit():
    assert not TeamWork(4, at_work=5).may_begin("m", {"m": START})

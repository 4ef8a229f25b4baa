"""The rules of the soak: what is drawn, how a checkpoint may end, who may answer, and which memory is flat."""

from datetime import timedelta

import pytest

from contracts import facts as f
from testbed import factories
from testbed.soak import judging, memory
from testbed.soak.progress import Announced
from testbed.soak.traffic import Answer
from tests.unit.kit.soak_events import RUN, announcement, finished, logged, opened, route_change


def judge(*events, kind="healthy", published=True):
    announced = Announced(1, factories.MODEL, kind, RUN)
    return judging.judge_ends([announced], {1} if published else set(), logged(*events))


def test_one_end_is_as_it_should_be():
    ends = judge(announcement(), opened(), finished())
    assert (ends.problems, ends.open, ends.unexpected) == ([], [], [])
    assert sum(ends.counts.values()) == 1


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((), "its announcement was acknowledged and is not in the log"),
        ((announcement(), opened(), finished(), finished(outcome="rejected", identity="f-2")), "it ended 2 times"),
        ((announcement(), opened("r-1"), opened("r-2"), finished("r-1")), "2 releases were opened"),
    ],
)
def test_another_number_of_ends_is_a_violation(events, expected):
    (problem,) = judge(*events).problems
    assert expected in problem


def test_a_checkpoint_without_an_end_is_open():
    assert judge(announcement(), opened()).open == [RUN]
    assert judge(announcement()).open == [RUN]
    assert judge(published=False).open == [], "it was never announced"


def test_a_checkpoint_that_was_refused_before_its_release_has_ended():
    refused = factories.event(factories.fact(f.CheckpointRejected), id="x-1", causationid="a-1")
    ends = judge(announcement(), refused, kind="damaged")
    assert (ends.problems, ends.open, ends.unexpected) == ([], [], [])


def test_a_healthy_release_that_is_rejected_is_unexpected():
    assert len(judge(announcement(), opened(), finished(outcome="rejected")).unexpected) == 1


@pytest.mark.parametrize("fact", [announcement(), opened(), finished()])
def test_a_fact_that_is_stored_twice_is_a_violation(fact):
    assert judging.find_doubles(logged(announcement(), opened())) == []
    assert len(judging.find_doubles(logged(fact, fact))) == 1


def test_a_rollback_is_completed_once_and_may_have_failed_before():
    """Another replica had changed the route, so that the first one's failure was not the end."""
    failed = factories.event(factories.fact(f.RollbackFailed, rollback_id="b-1"))
    first, second = (
        factories.event(factories.fact(f.RollbackCompleted, rollback_id="b-1"), id=f"c-{n}") for n in (1, 2)
    )
    assert judging.find_doubles(logged(failed, first)) == []
    assert judging.find_doubles(logged(failed, first, second)) == ["rollback b-1 was completed 2 times"]


def test_a_rollback_without_an_end_is_a_violation():
    started = factories.event(factories.fact(f.RollbackStarted, rollback_id="b-1"))
    completed = factories.event(factories.fact(f.RollbackCompleted, rollback_id="b-1"), id="c-1")
    assert len(judging.find_open_rollbacks(logged(started))) == 1
    assert judging.find_open_rollbacks(logged(started, completed)) == []


def answer(version, at, **changes):
    name = str(factories.target(version))
    return Answer(factories.MODEL, at, at + timedelta(seconds=1), name, **{"engine": name, **changes})


MINUTE = timedelta(minutes=1)
ROUTES = (
    lambda: route_change(1, factories.START, 1),
    lambda: route_change(2, factories.START + 5 * MINUTE, 1, canary=2),
    lambda: route_change(3, factories.START + 10 * MINUTE, 2),
)


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        (answer(1, factories.START + 2 * MINUTE), 0),
        (answer(2, factories.START + 2 * MINUTE), 1),
        (answer(2, factories.START + 7 * MINUTE), 0),
        (answer(1, factories.START + 7 * MINUTE), 0),
        (answer(1, factories.START + 12 * MINUTE), 1),
        (answer(1, factories.START + 10 * MINUTE + timedelta(seconds=20)), 0),
        (answer(2, factories.START + 12 * MINUTE, engine=str(factories.target(1))), 1),
        (answer(2, factories.START + 12 * MINUTE, engine=""), 0),
    ],
)
def test_an_answer_is_of_a_version_that_a_route_of_its_time_allows(given, problems):
    assert len(judging.judge_answers([given], logged(*(route() for route in ROUTES)))) == problems


def samples(early, late, part="registry"):
    return [memory.Sample(at_s, part, 60.0, early if at_s < 500 else late) for at_s in map(float, range(0, 1001, 10))]


@pytest.mark.parametrize(("late", "flat"), [(100.0, True), (160.0, True), (170.0, False)])
def test_memory_that_grows_by_more_than_the_limit_is_not_flat(late, flat):
    (grown,) = memory.growth(samples(100.0, late))
    assert (grown.late_mib <= grown.limit_mib) == flat


def test_young_processes_and_few_samples_are_not_judged():
    young = [memory.Sample(each.at_s, each.part, 5.0, each.mib) for each in samples(100.0, 900.0)]
    assert memory.growth(young) == []
    assert memory.growth(samples(100.0, 900.0)[:2]) == []

"""The rules of the soak: what is drawn, how a checkpoint may end, who may answer, and which memory is flat."""

import random
import subprocess
from datetime import timedelta

import pytest

from clients.cli.event_log import LoggedEvent
from contracts import facts as f
from testbed import factories
from testbed.soak import judging, kills, log_view, memory, stories
from testbed.soak.progress import Announced, Progress, load
from testbed.soak.traffic import Answer

RUN = "soak-1-1"


def logged(*events):
    return [LoggedEvent("SLIPWAY_EVENTS", number, event) for number, event in enumerate(events, 1)]


def announcement(identity="a-1", run_id=RUN):
    training = factories.training().model_copy(update={"run_id": run_id})
    return factories.event(factories.fact(f.CheckpointReady, training=training), id=identity)


def opened(release="r-1", run_id=RUN, cause="a-1"):
    training = factories.training().model_copy(update={"run_id": run_id})
    return factories.event(
        factories.fact(f.ReleaseOpened, release_id=release, training=training, source_event_id=cause), id=f"o-{release}"
    )


def finished(release="r-1", outcome="promoted", identity="f-1"):
    return factories.event(factories.fact(f.ReleaseFinished, release_id=release, outcome=outcome), id=identity)


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


def test_a_fact_that_is_stored_twice_is_a_violation():
    assert judging.find_doubles(logged(opened(), finished())) == []
    assert len(judging.find_doubles(logged(finished(), finished()))) == 1


def test_a_rollback_without_an_end_is_a_violation():
    started = factories.event(factories.fact(f.RollbackStarted, rollback_id="b-1"))
    completed = factories.event(factories.fact(f.RollbackCompleted, rollback_id="b-1"), id="c-1")
    assert len(judging.find_open_rollbacks(logged(started))) == 1
    assert judging.find_open_rollbacks(logged(started, completed)) == []


def route_change(epoch, at, active, canary=None, weight=0.5):
    share = factories.CanaryShare(served=factories.served(canary), weight_ratio=weight) if canary else None
    route = factories.route(epoch=epoch, active=factories.served(active), canary=share)
    fact = factories.fact(f.DeploymentChanged, route=route, at=at)
    return factories.event(fact, id=f"d-{epoch}")


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


def test_the_same_seed_draws_the_same_signals():
    parts = ["gateway", "gateway-2", "nats", "triton", "agent"]
    first, second = ([kills.draw(chance, parts) for _ in range(50)] for chance in map(random.Random, (7, 7)))
    assert first == second
    assert {draw.signal for draw in first} == set(kills.SIGNALS)


def test_servers_are_drawn_less_often():
    assert kills.weight_of("registry-2") == kills.weight_of("server-manager") == 1.0
    assert kills.weight_of("triton-2") == kills.weight_of("triton") < kills.weight_of("nats") < 1.0


def test_the_first_checkpoint_of_a_model_is_healthy():
    assert {stories.draw_kind(random.Random(seed), is_served=False) for seed in range(50)} == {"healthy"}
    assert {stories.draw_kind(random.Random(seed), is_served=True) for seed in range(200)} == set(stories.KINDS)


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


def test_a_later_session_goes_on_with_the_counts(tmp_path):
    progress = Progress(7, sessions=2)
    progress.killed["registry"] += 3
    progress.signals["SIGKILL"] += 3
    announced = progress.announce("model-1", "healthy")
    progress.published.add(announced.number)
    progress.save(tmp_path)
    again = load(tmp_path)
    assert (again.seed, again.sessions, again.kills) == (7, 2, 3)
    assert (again.announced, again.published) == ([announced], {1})
    assert again.announce("model-2", "healthy").number == 2
    assert load(tmp_path / "none") is None


class Commands:
    """A stack whose commands fail a few times, as while parts are away."""

    def __init__(self, failures):
        self.failures, self.given = failures, []

    def slipway(self, *arguments):
        self.given.append(arguments[0])
        failed = len(self.given) <= self.failures
        return subprocess.CompletedProcess(arguments, int(failed), "", "the bus is away" if failed else "")


def owner(stack, tmp_path):
    log = log_view.LogView(stack)
    return stories.Owner("m", random.Random(1), stack=stack, log=log, progress=Progress(1), folder=tmp_path)


def test_an_intervention_that_was_due_is_carried_out_after_the_last_kill(tmp_path):
    """Otherwise the canary that it was to end would stay open, which looks like a release that is stuck."""
    stack = Commands(failures=0)
    person = owner(stack, tmp_path)
    person.stop()
    assert person._order("cancel", "m@v1")
    assert stack.given == ["cancel"]


def test_a_command_that_has_become_useless_is_no_failure(tmp_path):
    stack = Commands(failures=9)
    person = owner(stack, tmp_path)
    assert not person._order("cancel", "m@v1", is_over=lambda: len(stack.given) == 1)
    assert (stack.given, person.failures) == (["cancel"], [])

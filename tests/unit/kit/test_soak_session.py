"""How the soak runs: what owners order, what ends it, how it is interrupted, and which options it refuses."""

import random
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from contracts import facts as f
from services.rollback_controller.settings import RollbackControllerSettings
from testbed import factories
from testbed.soak import __main__ as command
from testbed.soak.checkpoints import WEIGHTS
from testbed.soak.log_view import LogView
from testbed.soak.memory import Sampler
from testbed.soak.progress import Announced, Progress, load
from testbed.soak.releases import MOST_TRIES, Owner
from testbed.soak.session import FASTER, Plan, Session, Verdict
from testbed.soak.threads import Threads
from tests.unit.kit.soak_events import RUN, announcement, finished, logged, route_change

PROMOTED = Announced(1, factories.MODEL, "rolled back", RUN)


class Commands:
    """A stack whose commands fail a few times, as while parts are away; `written` is in a log after the first one."""

    def __init__(self, failures=0):
        self.failures, self.given = failures, []
        self.person, self.written = None, []

    def slipway(self, *arguments):
        self.given.append(arguments)
        failed = len(self.given) <= self.failures
        if self.person is not None:
            self.person._log.events = self.written
        return subprocess.CompletedProcess(arguments, int(failed), "", "the bus is away" if failed else "")


@pytest.fixture
def threads():
    return Threads()


@pytest.fixture
def owner(tmp_path, monkeypatch, threads):
    monkeypatch.setattr("testbed.soak.releases.AGAIN_S", 0.0)

    def make(stack, *events):
        log = LogView(stack, threads)
        log.events = logged(*events)
        return Owner(
            factories.MODEL,
            random.Random(1),
            stack=stack,
            log=log,
            progress=Progress(1),
            folder=tmp_path,
            threads=threads,
        )

    return make


@pytest.fixture
def models(tmp_path):
    """The adapter that all others follow from."""
    first = tmp_path / "models" / "first"
    first.mkdir(parents=True)
    save_file({"weight": np.zeros(2, np.float32)}, first / WEIGHTS)


def release_of(version):
    fact = factories.fact(
        f.ReleaseOpened,
        release_id="r-1",
        version=version,
        training=announcement().data.training,
        source_event_id="a-1",
    )
    return factories.event(fact)


def served_version(version, before):
    change = route_change(2, factories.START, version)
    route = change.data.route.model_copy(update={"previous": factories.served(before)})
    return factories.event(change.data.model_copy(update={"route": route}))


def rolled_back(version):
    return factories.event(factories.fact(f.RollbackCompleted, failed=factories.target(version)))


def test_an_order_that_was_due_is_given_after_the_last_kill(owner):
    """Otherwise the canary that it was to end would stay open, which looks like a release that is stuck."""
    stack = Commands()
    person = owner(stack)
    person.stop()
    assert person._order("cancel", "m@v1")
    assert stack.given == [("cancel", "m@v1")]


def test_a_command_that_has_become_useless_is_no_failure(owner):
    stack = Commands(failures=9)
    person = owner(stack)
    assert not person._order("cancel", "m@v1", is_over=lambda: len(stack.given) == 1)
    assert (stack.given, person.failures) == ([("cancel", "m@v1")], [])


def test_a_rollback_is_ordered_until_it_is_done(owner):
    stack = Commands(failures=2)
    person = owner(stack, announcement(), release_of(2), served_version(2, before=1), finished())
    person._roll_back(PROMOTED)
    target = str(factories.target(2))
    expected = ("rollback", factories.MODEL, "--target", target, "--to", "1", "--reason", "soak")
    assert (stack.given, person.failures) == ([expected] * 3, [])
    assert set(person._progress.accepted) == {1}


def test_a_rollback_that_the_log_has_is_done_though_its_command_failed(owner):
    events = [announcement(), release_of(2), served_version(2, before=1), finished()]
    stack = Commands(failures=9)
    person = owner(stack, *events)
    stack.person, stack.written = person, logged(*events, rolled_back(2))
    person._roll_back(PROMOTED)
    assert (len(stack.given), person.failures, set(person._progress.accepted)) == (1, [], {1})


def test_a_rollback_that_is_never_done_is_a_violation(owner):
    stack = Commands(failures=1000)
    person = owner(stack, announcement(), release_of(2), served_version(2, before=1), finished())
    person._roll_back(PROMOTED)
    assert len(stack.given) == MOST_TRIES
    assert person.failures == [f"rollback {factories.MODEL}: the bus is away"]
    assert person._progress.accepted == {}


@pytest.mark.parametrize(("outcome", "orders"), [("promoted", 1), ("aborted", 0)])
def test_the_drill_on_a_version_that_was_promoted_is_ended(owner, outcome, orders):
    stack = Commands()
    person = owner(stack, announcement(), release_of(2), finished(outcome=outcome))
    person._end_drill(Announced(1, factories.MODEL, "bad canary", RUN))
    assert [each[2] for each in stack.given] == ["--stop"] * orders


def test_an_owner_who_cannot_announce_ends_the_soak(owner, models, threads, capsys):
    """Otherwise a soak without --minutes would wait for its releases without an end."""
    person = owner(Commands(failures=1000))
    assert person.find_work() == []
    person.start()
    person._thread.join(30)
    assert threads.is_interrupted
    assert len(threads.failures) == len(person.failures) == 1
    assert "could not be announced" in capsys.readouterr().err


def test_an_owner_is_busy_until_its_release_has_ended(owner, models, threads):
    person = owner(announced := Commands())
    person.start()
    while not announced.given:
        time.sleep(0.01)
    person.stop()
    assert len(person.find_work()) == 1
    person._log.events = logged(announcement(), release_of(1), finished())
    person._thread.join(30)
    assert (person.find_work(), threads.failures) == ([], [])


def test_a_thread_that_ends_by_an_error_ends_the_session(capsys):
    threads = Threads()
    thread = threads.make("the sender of signals", lambda: {}["parts"])
    thread.start()
    thread.join(30)
    assert (threads.is_interrupted, threads.failures) == (True, ["the sender of signals ended by KeyError('parts')"])
    assert "KeyError" in capsys.readouterr().err


def test_production_takes_the_drills_of_the_owners():
    """They are refused by default, and a canary that was to fail is then promoted as if nothing were wrong."""
    allowed = RollbackControllerSettings.model_construct(
        production_drills=FASTER["ROLLBACK_CONTROLLER_PRODUCTION_DRILLS"]
    )
    assert "*" in allowed.drilled_models


def test_a_problem_is_in_the_verdict_once():
    verdict = Verdict()
    verdict.add("open", ["r-1 has no end"])
    verdict.add("open", ["r-1 has no end", "r-2 has no end"])
    assert verdict.problems == ["open: r-1 has no end", "open: r-2 has no end"]


@pytest.mark.parametrize(("under_kills_s", "problems"), [(179.0, 0), (180.0, 1)])
def test_a_soak_of_three_minutes_compares_the_memory_of_some_part(under_kills_s, problems, tmp_path):
    session, threads, verdict = Session(tmp_path, Plan(), Progress(1), print), Threads(), Verdict()
    session._judge_memory(Sampler(Commands(), tmp_path / "memory.jsonl", threads), verdict, under_kills_s)
    assert len(verdict.problems) == problems


def test_the_first_interrupt_ends_the_kills_and_the_second_one_gives_up(capfd):
    ended = []
    interrupts = command.Interrupts(lambda: ended.append(True))
    interrupts(signal.SIGINT, None)
    assert ended == [True]
    assert "again to give up" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        interrupts(signal.SIGINT, None)
    assert ended == [True]


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("--resume",), "--resume needs --state"),
        (("--state", "{folder}"), "holds a soak with 0 kills"),
        (("--state", "{folder}", "--resume", "--seed", "8"), "holds a soak of seed 7"),
    ],
)
def test_options_that_do_not_fit_end_with_2(arguments, refusal, tmp_path, monkeypatch, capsys):
    Progress(7).save(tmp_path)
    monkeypatch.setattr(sys, "argv", ["soak", *(each.format(folder=tmp_path) for each in arguments)])
    assert command.main() == 2
    assert refusal in capsys.readouterr().err


@pytest.mark.parametrize("seed", [(), ("--seed", "7")])
def test_a_soak_that_is_resumed_has_its_seed(seed, tmp_path):
    Progress(7, sessions=3).save(tmp_path)
    options = command.parse(["--state", str(tmp_path), "--resume", *seed])
    assert command.begin(tmp_path, options).seed == load(tmp_path).seed == 7


def test_the_way_to_go_on_has_the_options_of_the_session_and_works(tmp_path):
    folder = tmp_path / "a soak"
    options = command.parse(["--state", str(folder), "--seed", "7", "--models", "3", "--minutes", "1.5"])
    line = command.describe_resume(folder, options)
    *_, given = shlex.split(line)
    again = command.parse(shlex.split(given.removeprefix("ARGS=")))
    assert line.startswith("go on with it: make soak ARGS=")
    assert (again.state, again.resume, again.models, again.minutes, again.seed) == (folder, True, 3, 1.5, None)
    assert (again.kills, again.every) == (options.kills, options.every)
    temporary = command.describe_resume(folder, command.parse(["--models", "3"]))
    assert temporary == "it cannot go on, because its folder was temporary; begin with --state DIR for one that can"

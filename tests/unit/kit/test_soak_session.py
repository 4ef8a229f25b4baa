"""How the soak runs: what owners announce, what ends it, and how it is interrupted."""

import random
import signal
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from testbed import factories
from testbed.soak import __main__ as command
from testbed.soak.checkpoints import WEIGHTS
from testbed.soak.log_view import LogView
from testbed.soak.memory import Sampler
from testbed.soak.progress import Progress
from testbed.soak.releases import Owner
from testbed.soak.session import Plan, Session, Verdict
from testbed.soak.threads import Threads
from tests.unit.kit.soak_events import announcement, finished, logged, opened


class Commands:
    """A stack whose commands fail a few times, as while parts are away."""

    def __init__(self, failures=0):
        self.failures, self.given = failures, []

    def slipway(self, *arguments):
        self.given.append(arguments)
        failed = len(self.given) <= self.failures
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
    person._log.events = logged(announcement(), opened(), finished())
    person._thread.join(30)
    assert (person.find_work(), threads.failures) == ([], [])


def test_a_thread_that_ends_by_an_error_ends_the_session(capsys):
    threads = Threads()
    thread = threads.make("the sender of signals", lambda: {}["parts"])
    thread.start()
    thread.join(30)
    assert (threads.is_interrupted, threads.failures) == (True, ["the sender of signals ended by KeyError('parts')"])
    assert "KeyError" in capsys.readouterr().err


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

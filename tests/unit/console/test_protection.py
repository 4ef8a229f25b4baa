"""Every page says when automatic rollback does not run, or the bus does not answer."""

from datetime import timedelta

import pytest

from services.console.hub import Hub
from services.console.protection import SILENT_S, TOPIC, Protection
from tests.unit.console.world import FakeClock, World


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def protection(clock):
    return Protection(clock)


def later(clock, protection, reporting, seconds=SILENT_S + 1):
    """Let time go on while these services report."""
    clock.time += timedelta(seconds=seconds)
    for service in reporting:
        protection.take(service)


def test_nothing_is_known_before_the_first_report(clock, protection):
    later(clock, protection, ())
    assert protection.silent() == {}


@pytest.mark.parametrize("service", ["monitor", "rollback-controller"])
def test_a_service_that_reports_no_more_is_silent_until_it_does(clock, protection, service):
    others = {"console", "monitor", "rollback-controller", "merger"} - {service}
    later(clock, protection, (*others, service))
    stopped_at = clock.time
    later(clock, protection, others)
    assert protection.silent() == {service: stopped_at}
    later(clock, protection, (*others, service), seconds=1)
    assert protection.silent() == {}


def test_a_service_that_never_reported_is_silent_since_the_first_report(clock, protection):
    later(clock, protection, ("console",))
    began_at = clock.time
    later(clock, protection, ("console", "monitor"))
    assert protection.silent() == {"rollback-controller": began_at}


def test_without_any_report_it_is_the_bus(clock, protection):
    later(clock, protection, ("console", "monitor", "rollback-controller"))
    stopped_at = clock.time
    later(clock, protection, ())
    assert protection.silent() == {"bus": stopped_at}


async def test_open_pages_are_notified_once_of_each_change(clock, protection):
    announced = []

    class Noting(Hub):
        def announce(self, topics):
            announced.append(topics)

    reporting = [("console", "monitor", "rollback-controller"), ("console",), ("console",), ("console", "monitor")]

    async def sleep(_seconds):
        if not reporting:
            raise EOFError
        later(clock, protection, reporting.pop(0))

    with pytest.raises(EOFError):
        await protection.announce(Noting(1, clock), sleep)
    assert announced == [{TOPIC}] * 2


def test_a_page_says_it_at_its_top_and_not_to_those_who_are_not_signed_in(tmp_path):
    world = World(tmp_path)
    world.fill()
    later(world.clock, world.protection, ("console", "monitor", "rollback-controller"))
    later(world.clock, world.protection, ("console", "monitor"))
    for path in ("/fleet", "/index", "/models/search-ranker"):
        (part,) = world.client("adam").get(path).text.split('id="incidents"')[1:]
        assert "rollback-controller" in part.split("</aside>")[0]
    assert "rollback-controller" not in world.client().get("/fleet").text
    world.close()

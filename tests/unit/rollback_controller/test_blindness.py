"""An alert that production is not watched: raised once, by what does not arrive, and resolved by what does."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.api_usage import TrafficReport
from contracts.facts import AlertRaised, AlertResolved
from services.rollback_controller.domain import blindness
from services.rollback_controller.domain.blindness import GAP_S, Arrived, Limits, Seen, Traffic
from services.rollback_controller.domain.record import RollbackState
from testbed import factories as f
from tests.kit.fakes_rollback import FakeArrivals
from tests.kit.virtual_time import run_virtual
from tests.unit.rollback_controller.world import World

LIMITS = Limits(60.0, 150.0)
STATE = RollbackState(model=f.MODEL, environment="production")
REPORT = TrafficReport(process="0" * 8, traffic={f.MODEL: 0.5})


def seen(*, lasts_s=1000.0, telemetry_s=0.0, windows_s=0.0, sequences=(5, 5), known_s=1000.0):
    arrived = {
        "telemetry": Arrived(sequences[0], 1000.0 - telemetry_s),
        "windows": Arrived(sequences[1], 1000.0 - windows_s),
    }
    return Seen(1000.0, lasts_s, known_s, arrived)


@given(st.floats(0, 1000), st.floats(0, 1000), st.floats(0, 1000))  # for how long: traffic, no telemetry, no window
def test_what_is_missing_counts_only_while_traffic_lasts(lasts_s, telemetry_s, windows_s):
    unseen = blindness.find_unseen(seen(lasts_s=lasts_s, telemetry_s=telemetry_s, windows_s=windows_s), LIMITS)
    if unseen == "telemetry":
        assert lasts_s >= 60.0
        assert 1000.0 - (1000.0 - telemetry_s) >= 60.0
    elif unseen == "windows":
        assert min(lasts_s, 1000.0 - (1000.0 - windows_s)) >= 150.0
    else:
        assert min(lasts_s, telemetry_s) < 60.001
        assert min(lasts_s, windows_s) < 150.001


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=20))
def test_traffic_lasts_from_its_first_report_until_a_gap(reports):
    """Against a plain model: the reports with requests, walked back while no gap is too long."""
    traffic, now_s, asked = {}, 0.0, []
    for wait_s, has_requests in reports:
        now_s += wait_s
        traffic = blindness.note_traffic(traffic, {f.MODEL: 1.0 if has_requests else 0.0}, now_s)
        asked += [now_s] if has_requests else []
    begin = end = asked.pop() if asked else None
    while asked and begin - asked[-1] <= GAP_S:
        begin = asked.pop()
    lasts_s = traffic[f.MODEL].lasts_s(now_s) if f.MODEL in traffic else 0.0
    assert lasts_s == (0.0 if end is None or now_s - end > GAP_S else now_s - begin)


def test_models_whose_traffic_ended_are_forgotten():
    traffic = {f"model-{number}": Traffic(0.0, float(number)) for number in range(30)}
    assert len(blindness.note_traffic(traffic, {}, 30.0)) == 10


def test_a_message_that_was_removed_for_its_age_is_no_arrival():
    last = Arrived(7, 100.0)
    assert last.note(7, 200.0) == last
    assert last.note(0, 200.0) == last
    assert last.note(8, 200.0) == Arrived(8, 200.0)
    assert last.note(3, 200.0) == Arrived(3, 200.0), "the stream was made again"


@pytest.mark.parametrize(
    ("kind", "blind", "again"),
    [
        ("telemetry", seen(telemetry_s=60), seen(sequences=(6, 5))),
        ("windows", seen(windows_s=150), seen(sequences=(5, 6))),
    ],
)
def test_an_alert_is_raised_once_and_resolved_by_what_arrives(kind, blind, again):
    raised = blindness.assess(STATE, f.target(7), blind, f.after(0), LIMITS)
    (entry,) = raised.outbox
    assert (entry.type, entry.data["kind"], entry.data["severity"]) == (AlertRaised.TYPE, "blind", "critical")
    assert entry.data["target"] == f.target(7).model_dump()
    assert blindness.assess(raised, f.target(7), blind, f.after(9), LIMITS) is raised
    other = seen(sequences=(5, 6) if kind == "telemetry" else (6, 5), telemetry_s=60, windows_s=150)
    assert blindness.assess(raised, f.target(7), other, f.after(9), LIMITS) is raised, "another kind arrived"
    removed = seen(sequences=(0, 0))
    assert blindness.assess(raised, f.target(7), removed, f.after(9), LIMITS) is raised
    resolved = blindness.assess(raised, f.target(7), again, f.after(10), LIMITS)
    assert resolved.blind is None
    assert [each.type for each in resolved.outbox] == [AlertRaised.TYPE, AlertResolved.TYPE]
    assert len({each.data["alert_id"] for each in resolved.outbox}) == 1


def test_missing_telemetry_is_raised_while_policies_are_unknown_too():
    unknown = replace(seen(), unknown={7: "It was signed without its policy."})
    raised = blindness.assess(STATE, f.target(7), unknown, f.after(0), LIMITS)
    assert raised.blind.unseen == "policies"
    both = replace(seen(telemetry_s=60), unknown=unknown.unknown)
    ended = blindness.assess(raised, f.target(7), both, f.after(5), LIMITS)
    after = blindness.assess(ended, f.target(7), both, f.after(10), LIMITS)
    assert after.blind.unseen == "telemetry"
    assert [each.type for each in after.outbox] == [AlertRaised.TYPE, AlertResolved.TYPE, AlertRaised.TYPE]


def test_an_alert_ends_with_the_traffic_only_once_a_process_has_listened_for_long_enough():
    raised = blindness.assess(STATE, f.target(7), seen(telemetry_s=60), f.after(0), LIMITS)
    quiet = seen(lasts_s=0.0, known_s=10.0)
    assert blindness.assess(raised, f.target(7), quiet, f.after(9), LIMITS) is raised, "it started ten seconds ago"
    ended = blindness.assess(raised, f.target(7), seen(lasts_s=0.0), f.after(9), LIMITS)
    assert ended.outbox[-1].data["message"] == "No requests come any more."
    unserved = blindness.assess(raised, None, seen(telemetry_s=60), f.after(9), LIMITS)
    assert unserved.outbox[-1].data["message"] == "Nothing of the model serves any more."
    assert blindness.assess(STATE, None, seen(telemetry_s=60), f.after(0), LIMITS) is STATE


class Watched:
    """A model with traffic, in virtual time, watched by some processes."""

    def __init__(self, processes=1):
        self.world = World()
        self.arrivals = FakeArrivals()
        self.world.watches = [self.arrivals] * processes
        self.telemetry = self.windows = True

    async def run(self, seconds):
        """Have gateways answer requests for some seconds."""
        for second in range(seconds):
            for watching in self.world.watching:
                watching.take_report(REPORT)
            if self.telemetry:
                self.arrivals.arrive("telemetry", f.MODEL)
            if self.windows and second % 60 == 0:
                self.arrivals.arrive("windows", f.MODEL)
            await asyncio.sleep(1)

    def alerts(self):
        return [fact.message for kind in (AlertRaised, AlertResolved) for fact in self.world.log.facts(kind)]


def scenario(story, processes=1):
    async def played():
        watched = Watched(processes)
        watched.world.serve()
        watched.world.open_releases(6, 7)
        watched.world.start()
        await story(watched)
        await watched.world.stop()

    run_virtual(played())


def test_watched_traffic_raises_nothing():
    async def story(watched):
        await watched.run(600)
        assert watched.alerts() == []

    scenario(story)


@pytest.mark.parametrize("processes", [1, 3])
def test_traffic_without_telemetry_is_told_after_a_minute_and_once(processes):
    async def story(watched):
        watched.telemetry = False
        await watched.run(58)
        assert watched.alerts() == []
        await watched.run(20)
        (message,) = watched.alerts()
        assert message.startswith("Gateways answer requests of support-bot, and no telemetry of them has arrived")
        watched.telemetry = True
        await watched.run(20)
        assert watched.alerts()[1:] == ["Telemetry arrives again."]

    scenario(story, processes)


def test_a_monitor_that_is_silent_is_told_by_another_service():
    async def story(watched):
        watched.windows = False
        await watched.run(148)
        assert watched.alerts() == []
        await watched.run(20)
        (message,) = watched.alerts()
        assert message.startswith("Telemetry of support-bot arrives, and the monitor has summarised no window")
        assert watched.world.route().active.target == f.target(7), "it is no reason for a rollback"
        watched.windows = True
        await watched.run(20)
        assert watched.alerts()[1:] == ["The monitor summarises windows again."]

    scenario(story)


def test_while_the_bus_does_not_answer_nothing_is_known_and_afterwards_silence_counts_anew():
    async def story(watched):
        await watched.run(100)
        watched.arrivals.lost = True
        watched.telemetry = watched.windows = False
        await watched.run(300)
        watched.arrivals.lost = False
        await watched.run(50)
        assert watched.alerts() == []
        await watched.run(20)
        assert len(watched.alerts()) == 1

    scenario(story)


def test_a_process_that_starts_finds_the_alert_of_the_one_before():
    async def story(watched):
        watched.telemetry = False
        await watched.run(80)
        await watched.world.life.close()
        watched.world.start()
        await watched.run(100)
        assert len(watched.alerts()) == 1
        watched.telemetry = True
        await watched.run(10)
        assert len(watched.alerts()) == 2

    scenario(story)

"""The same traffic through the monitor's handlers, and through `slipway replay` from the windows that it summarised."""

import asyncio
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from clients.cli.replay.engine import replay
from clients.cli.replay.spread import spread
from contracts import facts as f
from contracts.policy import Trigger
from tests.kit.factories import after, event, fact, policy, target
from tests.kit.records import event_id
from tests.unit.cli.recordings import changed
from tests.unit.monitor import factories as m
from tests.unit.monitor.world import World, batch

MINUTE = 60
VERSION = 2
SERVED = target(VERSION, "bf16")
ROUTE = changed(2, 0, VERSION)
ERRORS = Trigger(name="errors", metric="error_ratio", threshold=0.05, min_requests=10, window_s=60.0, action="manual")
SLOW = Trigger(
    name="slow", metric="ttft_ms", threshold=500.0, allowed_ratio=0.1, min_requests=20, window_s=120.0, action="manual"
)
TRIGGERS = (ERRORS, SLOW)
ALERTS = (f.AlertRaised, f.AlertUpdated, f.AlertResolved)

minutes = st.tuples(st.integers(min_value=0, max_value=40), st.floats(min_value=0.0, max_value=1.0))
"""Requests of a minute, and the share of bad ones."""
stories = st.lists(minutes, min_size=1, max_size=7)


class SetClock:
    """A clock that shows the time that it was set to."""

    def __init__(self):
        self.time = after(0)

    def now(self):
        return self.time

    def monotonic(self):
        return (self.time - after(0)).total_seconds()


def requests_of(story, kind):
    """Lay the bad requests of each minute out evenly, as the replay does."""
    for number, (count, ratio) in enumerate(story):
        for index, bad in enumerate(spread(count, round(ratio * count)) if count else ()):
            at = number * MINUTE + (index + 0.5) / count * MINUTE
            about = {"target": SERVED, "e2e_ms": 0.0, "ttft_ms": 100.0}
            if bad and kind == "errors":
                about |= {"error": "engine_dead", "ttft_ms": None, "features": None}
            elif bad:
                about |= {"ttft_ms": 900.0}
            yield m.record(at, **about)


async def monitored(story, kind):
    """Return what the monitor publishes when a gateway sends what ended in each second at its end."""
    clock = SetClock()
    world = World(clock=clock, window_s=MINUTE, lateness_s=5.0, hard_run=10_000)  # a window does not hold runs
    opened = fact(f.ReleaseOpened, version=VERSION, release_id="r-2", policy=policy(triggers=TRIGGERS))
    await world.monitor.add_policy(event(opened, id="opened"))
    await world.monitor.follow(ROUTE)
    records = list(requests_of(story, kind))
    for second in range(1, len(story) * MINUTE + 1):
        ended = [
            record for record in records if second - 1 < (record.scheduled_at - after(0)).total_seconds() <= second
        ]
        clock.time = after(second)
        if ended:
            await world.monitor.measure(batch(f"b-{second}", ended, second))
        await world.monitor.sweep(("production", m.f.MODEL))
    clock.time += timedelta(seconds=2 * MINUTE)
    windows_only = len(world.publisher.log)
    await world.monitor.sweep(("production", m.f.MODEL))
    return world.publisher.log[:windows_only], world.publisher.log


def shown(facts):
    """Return the kind of each alert fact, its trigger, and the second at which it was decided."""
    rows = [(type(alert).__name__, alert.trigger, alert.window.to) for alert in facts]
    return [
        (name, trigger, (at - after(0) + timedelta(seconds=0.999)) // timedelta(seconds=1))
        for name, trigger, at in rows
    ]


@settings(max_examples=15, deadline=None)
@given(story=stories, kind=st.sampled_from(["errors", "slow"]))
def test_monitor_and_replay_publish_the_same_alerts_at_the_same_seconds(story, kind):
    during, everything = asyncio.run(monitored(story, kind))
    live = [emit.fact for emit in during if isinstance(emit.fact, ALERTS)]
    summaries = [emit for emit in everything if isinstance(emit.fact, f.WindowSummarised)]
    log = [event(emit.fact, id=event_id(emit)) for emit in summaries]
    replayed = replay(TRIGGERS, [ROUTE, *log], since=after(-1))
    recorded = [alert for alert in live if replayed.end is not None and alert.window.to <= replayed.end]
    assert shown(replayed.alerts) == shown(recorded)


def test_the_stories_hold_alerts_that_are_raised_updated_and_resolved():
    story = [(30, 0.0), (30, 0.9), (30, 0.0), (30, 0.0), (30, 0.0), (30, 0.8)]
    during, _ = asyncio.run(monitored(story, "errors"))
    kinds = [type(emit.fact).__name__ for emit in during if isinstance(emit.fact, ALERTS)]
    assert kinds[0] == "AlertRaised"
    assert {"AlertUpdated", "AlertResolved"} <= set(kinds)
    assert kinds.count("AlertRaised") == 2

"""The same traffic through the monitor's handlers, and through `slipway replay` from the windows that it summarised."""

import asyncio
from datetime import timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts import facts as f
from contracts.policy import Trigger
from decisions.evidence.block_tests import BLOCK_S
from decisions.replay.engine import replay, spread
from testbed import factories
from testbed.factories import after, event, fact, policy, target
from tests.kit.records import event_id
from tests.kit.soak import often
from tests.unit.cli.recordings import changed, on_trial
from tests.unit.monitor import factories as m
from tests.unit.monitor.world import World, batch

MINUTE = 60
VERSION = 2
SERVED = target(VERSION, "bf16")
ERRORS = Trigger(name="errors", metric="error_ratio", threshold=0.05, min_requests=10, window_s=60.0, action="manual")
SLOW = Trigger(
    name="slow", metric="ttft_ms", threshold=500.0, allowed_ratio=0.1, min_requests=20, window_s=120.0, action="manual"
)
TRIGGERS = (ERRORS, SLOW)
OPENED = event(fact(f.ReleaseOpened, version=VERSION, release_id="r-2", policy=policy(triggers=TRIGGERS)), id="opened")
ALERTS = (f.AlertRaised, f.AlertUpdated, f.AlertResolved)

minutes = st.tuples(st.integers(min_value=0, max_value=40), st.floats(min_value=0.0, max_value=1.0))
"""Requests of a minute, and the share of bad ones."""
stories = st.lists(minutes, min_size=1, max_size=7)
SHARES = {
    "active": {"active": VERSION, "previous": 1},
    "small canary": {"active": 1, "canary": on_trial(VERSION, 0.1)},
    "canary": {"active": 1, "canary": on_trial(VERSION, 0.5)},
    "out": {"active": 1},
}
shares = st.lists(st.one_of(st.none(), st.sampled_from(sorted(SHARES))), min_size=7, max_size=7)
"""What becomes of the target at the start of each minute; None: its route is left as it is."""


class SetClock:
    """A clock that shows the time that it was set to."""

    def __init__(self):
        self.time = after(0)

    def now(self):
        return self.time

    def monotonic(self):
        return (self.time - after(0)).total_seconds()


def routes_of(shares):
    """Return the routes by the minute in which they begin."""
    return {
        number: changed(number + 2, number * MINUTE, **SHARES[share]) for number, share in enumerate(shares) if share
    }


def requests_of(story, kind, shares):
    """Spread the bad requests of each minute evenly, as the replay does; there are none without traffic."""
    share = "active"
    for number, (count, ratio) in enumerate(story):
        share = shares[number] or share
        if share == "out":
            continue
        for index, bad in enumerate(spread(count, round(ratio * count)) if count else ()):
            at = number * MINUTE + (index + 0.5) / count * MINUTE
            about = {"target": SERVED, "e2e_ms": 0.0, "ttft_ms": 100.0}
            if bad and kind == "errors":
                about |= {"error": "engine_dead", "ttft_ms": None, "features": None}
            elif bad:
                about |= {"ttft_ms": 900.0}
            yield m.record(at, **about)


async def monitored(story, kind, shares=("active", *[None] * 6)):
    """Return what the monitor publishes when a gateway sends what ended in each second at its end."""
    clock = SetClock()
    world = World(clock=clock, window_s=MINUTE, lateness_s=5.0)
    await world.monitor.add_policy(OPENED)
    routes = routes_of(shares)
    if 0 in routes:
        await world.monitor.follow(routes[0])
    records = list(requests_of(story, kind, shares))
    for second in range(1, len(story) * MINUTE + 1):
        ended = [
            record for record in records if second - 1 < (record.scheduled_at - after(0)).total_seconds() <= second
        ]
        clock.time = after(second)
        if ended:
            await world.monitor.measure(batch(f"b-{second}", ended, second))
        await world.monitor.sweep(("production", factories.MODEL))
        if second % MINUTE == 0 and second // MINUTE in routes and second // MINUTE < len(story):
            await world.monitor.follow(routes[second // MINUTE])
    clock.time += timedelta(seconds=2 * MINUTE)
    windows_only = len(world.publisher.log)
    await world.monitor.sweep(("production", factories.MODEL))
    return world.publisher.log[:windows_only], world.publisher.log


def is_raised(alert):
    return isinstance(alert, f.AlertRaised)


def shown(facts):
    """Return the kind of each alert fact, its trigger, and the second at which it was decided."""
    rows = [(type(alert).__name__, alert.trigger, alert.window.to) for alert in facts]
    return [
        (name, trigger, (at - after(0) + timedelta(seconds=0.999)) // timedelta(seconds=1))
        for name, trigger, at in rows
    ]


@settings(max_examples=often(6), deadline=None)
@given(story=stories, kind=st.sampled_from(["errors", "slow"]), shares=shares)
@example(  # a route that only confirms what is served begins nothing anew
    story=[(8, 0.125)] * 7, kind="errors", shares=["active", "active", *[None] * 5]
)
@example(  # an alert of a canary that leaves, comes back and is promoted
    story=[(30, 0.0), (30, 0.9), (30, 0.9), (30, 0.5), (30, 0.5), (30, 0.5), (30, 0.0)],
    kind="errors",
    shares=["canary", None, "out", "canary", "small canary", "active", None],
)
@example(  # an alert while the route changes twice without a request
    story=[(0, 0.0), (0, 0.0), (0, 0.0), (10, 1.0), (0, 0.0)], kind="errors", shares=[*[None] * 4, "canary", None, None]
)
@example(  # an alert while the route changes, and a request only a minute later
    story=[*[(0, 0.0)] * 3, (10, 1.0), (0, 0.0), (1, 0.0)], kind="errors", shares=[*[None] * 4, "canary", None, None]
)
@example(  # an alert whose update is due in the second in which the route changes
    story=[(0, 0.0), (12, 0.0), (15, 1.0), *[(4, 0.0), (0, 0.0), (0, 0.0)]],
    kind="slow",
    shares=[*[None] * 5, "canary", None],
)
def test_monitor_and_replay_publish_the_same_alerts_at_the_same_seconds(story, kind, shares):
    """Also while the route changes; the target is served from the first minute, and in the last one."""
    shares = ["active" if shares[0] in (None, "out") else shares[0], *shares[1:]]
    shares = [*shares[: len(story)], "active"]
    story = [*story, (1, 0.0)]
    during, everything = asyncio.run(monitored(story, kind, shares))
    live = [emit.fact for emit in during if isinstance(emit.fact, ALERTS)]
    summaries = [emit for emit in everything if isinstance(emit.fact, f.WindowSummarised)]
    log = [event(emit.fact, id=event_id(emit)) for emit in summaries]
    replayed = replay(TRIGGERS, [*routes_of(shares).values(), *log], since=after(-1))
    recorded = [alert for alert in live if replayed.end is not None and alert.window.to <= replayed.end]
    if kind == "slow":  # without blocks, a window does not show whether all requests of a moment failed
        assert shown(replayed.alerts) == shown(recorded)
    by_block = replay(TRIGGERS, [OPENED, *routes_of(shares).values(), *log], since=after(-1))
    ours, theirs = (shown(filter(is_raised, alerts)) for alerts in (by_block.alerts, recorded))
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    assert all(abs(our[2] - their[2]) <= BLOCK_S for our, their in zip(ours, theirs, strict=True))


def test_the_stories_hold_alerts_that_are_raised_updated_and_resolved():
    story = [(30, 0.0), (30, 0.9), (30, 0.0), (30, 0.0), (30, 0.0), (30, 0.8)]
    during, _ = asyncio.run(monitored(story, "errors"))
    kinds = [type(emit.fact).__name__ for emit in during if isinstance(emit.fact, ALERTS)]
    assert kinds[0] == "AlertRaised"
    assert {"AlertUpdated", "AlertResolved"} <= set(kinds)
    assert kinds.count("AlertRaised") == 2

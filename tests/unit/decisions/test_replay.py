import json
import random

import pytest

from clients.cli.commands.replay import COLUMNS, report, row
from contracts import facts as f
from contracts.facts.watch import Window
from contracts.policy import Trigger
from contracts.routes import CanaryShare, Route
from decisions.evidence.replay import replay
from services.monitor.domain import monitoring as watching
from testbed import factories as k
from testbed.factories import after, event, fact, served, target
from tests.unit.monitor import factories as m

SLOW = k.trigger(name="slow", metric="ttft_ms", threshold=500.0, action="manual")
ERRORS = k.trigger(name="errors", metric="error_ratio", threshold=0.02)
BOTH = (SLOW, ERRORS)
LONG_AGO = after(-86_400)


def opened(version=7, triggers=BOTH):
    policy = k.policy(triggers=triggers)
    return event(fact(f.ReleaseOpened, version=version, policy=policy), id=f"o-{version}", time=after(-100))


def changed(epoch, at, active, **more):
    whole = Route(model=k.MODEL, epoch=epoch, active=served(active), cause_id=f"c-{epoch}", **more)
    return event(fact(f.DeploymentChanged, route=whole, at=after(at)), id=f"d-{epoch}", time=after(at))


ROUTE = [changed(1, -3600, 6), changed(2, -1800, 7)]


def minutes(first, count, bad=0, version=7, name="errors"):
    """Return windows of four requests in each block, of which some are bad."""
    blocks = {name: tuple((at, 4, bad) for at in range(0, 60, 2))}
    return [
        event(
            fact(
                f.WindowSummarised, target=target(version), requests=120, blocks=blocks,
                window=Window.model_validate({"from": after(at), "to": after(at + 60)}),
            ),
            id=f"w-{version}-{at}",
        )
        for at in (first + 60 * number for number in range(count))
    ]  # fmt: skip


def fired(triggers, events, **more):
    return replay(triggers, [opened(), *ROUTE, *events], **{"since": LONG_AGO} | more).fired


def test_a_regression_fires_once_in_its_window():
    (alert,) = fired([ERRORS], [*minutes(0, 10), *minutes(600, 5, bad=1)])
    assert (alert.at, alert.target, alert.trigger) == (after(660), target(7), ERRORS)
    assert (alert.requests, alert.bad) == (120, 30)


def test_healthy_traffic_fires_nothing():
    result = replay(BOTH, [opened(), *ROUTE, *minutes(0, 60)], since=LONG_AGO)
    assert (result.fired, len(result.windows), result.missing) == ((), 60, {})


def test_it_decides_with_the_limits_of_the_other_policy():
    story = minutes(0, 10, bad=1)
    assert fired([ERRORS.model_copy(update={"threshold": 0.3})], story) == ()
    assert fired([ERRORS], story, false_alarm_every=1.0)[0].at <= fired([ERRORS], story)[0].at
    slow = minutes(0, 5, bad=1, name="slow")
    assert fired([SLOW.model_copy(update={"allowed_ratio": 0.5})], slow) == ()
    assert fired([SLOW], slow) != ()


def test_an_alert_fires_again_after_it_was_resolved():
    story = [*minutes(0, 3, bad=2), *minutes(180, 5), *minutes(480, 3, bad=2)]
    assert [alert.at for alert in fired([ERRORS], story)] == [after(60), after(540)]


def test_what_no_trigger_of_that_time_counted_is_missing():
    other = SLOW.model_copy(update={"threshold": 400.0})
    drift = Trigger(name="drift", metric="drift", threshold=0.2)
    events = [opened(), *ROUTE, *minutes(0, 5, bad=4)]
    result = replay([other, drift, ERRORS], events, since=LONG_AGO)
    assert result.missing == {"slow": 5, "drift": 5}
    assert [alert.trigger for alert in result.fired] == [ERRORS]


@pytest.mark.parametrize(
    "later", [changed(3, 0, 6), changed(3, 0, 6, canary=CanaryShare(served=served(7), weight_ratio=0.5))]
)
def test_only_active_versions_are_replayed(later):
    result = replay([ERRORS], [opened(), *ROUTE, later, *minutes(0, 5, bad=4)], since=LONG_AGO)
    assert (result.fired, result.windows) == ((), ())


def test_a_version_that_is_active_again_begins_anew():
    weak = [*minutes(0, 4), *minutes(240, 1, bad=1)]
    away = [changed(3, 290, 6), changed(4, 300, 7)]
    (_, again) = fired([ERRORS], [*weak, *away, *minutes(300, 1, bad=1)])
    assert again.at == after(360)


def test_before_the_first_known_route_every_version_counts_as_active():
    assert replay([ERRORS], [opened(), *minutes(0, 5, bad=4)], since=LONG_AGO).fired != ()


def test_windows_of_before_are_no_evidence():
    story = [*minutes(0, 5, bad=4), *minutes(300, 5)]
    assert fired([ERRORS], story, since=after(300)) == ()
    assert fired([ERRORS], story, since=after(299)) != ()


def test_repeated_events_count_once_in_any_order():
    story = [opened(), *ROUTE, *minutes(0, 5), *minutes(300, 5, bad=1)]
    shuffled = [*story, *story]
    random.Random(5).shuffle(shuffled)
    assert replay([ERRORS], shuffled, since=LONG_AGO) == replay([ERRORS], story, since=LONG_AGO)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.15, 0.6])
def test_it_raises_what_the_monitor_raised(share):
    """From the windows that the monitor summarised, with the policy of that time."""
    policy = m.policy()
    draw = random.Random(3)

    def request(at):
        if at >= 120 and draw.random() < share:
            return m.failed(at)
        return m.record(at)

    state = m.feed(m.routed(at=-60.0), 420, 6, request)
    state = watching.assess(state, m.cause(600), m.RULES)
    raised = [alert.trigger for alert in m.published(state, f.AlertRaised) if alert.trigger]
    windows = [event(data, id=f"w-{n}") for n, data in enumerate(m.published(state, f.WindowSummarised))]
    events = [opened(triggers=policy.triggers), changed(12, -60, 7), *windows]
    result = replay(policy.triggers, events, since=LONG_AGO, false_alarm_every=policy.false_alarm_every)
    assert (sum(data.requests for data in result.windows), result.missing) == (2520, {})
    assert [alert.trigger.name for alert in result.fired] == raised
    assert bool(raised) == (share > 0.1)


def test_the_report_is_plain_json_and_each_alert_a_row():
    triggers = (ERRORS, SLOW, Trigger(name="drift", metric="drift", threshold=0.2))
    result = replay(triggers, [opened(), *ROUTE, *minutes(0, 10), *minutes(600, 5, bad=1)], since=LONG_AGO)
    data = json.loads(json.dumps(report(k.MODEL, result, triggers), allow_nan=False))
    assert (data["windows"], data["requests"], data["triggers"]) == (15, 1800, {"errors": 1, "slow": 0, "drift": 0})
    assert data["not_replayed"] == {"drift": 15}
    (alert,) = data["fired"]
    assert (alert["trigger"], alert["bad"], alert["action"]) == ("errors", 30, "automatic")
    cells = row(result.fired[0])
    assert len(cells) == len(COLUMNS)
    assert cells[1:] == (str(target(7)), "errors", "30 of 120, 2 % allowed", "automatic")

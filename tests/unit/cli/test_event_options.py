"""`slipway events --type --since --until`."""

from datetime import UTC, datetime

import pytest

from clients.cli.events.event_selection import Selection, types_matching
from clients.cli.output import CommandError, Exit
from clients.cli.parsing import parse_moment
from contracts.envelope import short_type
from contracts.facts import FACTS, AlertRaised
from testbed import factories

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def test_types_are_named_short_whole_or_by_a_pattern():
    assert types_matching(["rollback.started"]) == {"slipway.rollback.started.v1"}
    assert types_matching(["slipway.rollback.started.v1"]) == {"slipway.rollback.started.v1"}
    assert {short_type(each) for each in types_matching(["alert.*"])} == {
        "alert.raised",
        "alert.updated",
        "alert.resolved",
    }
    assert types_matching([]) == set(FACTS)


def test_an_unknown_type_leads_to_those_that_are_like_it():
    with pytest.raises(CommandError, match=r"did you mean rollback\.started") as refused:
        types_matching(["rollback.start"])
    assert refused.value.code is Exit.USAGE
    with pytest.raises(CommandError, match="no event has the type"):
        types_matching(["zzzz"])


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", datetime(2026, 11, 27, 10, tzinfo=UTC)),
        ("2026-11-27", datetime(2026, 11, 27, tzinfo=UTC)),
        ("2026-11-27T05:30", datetime(2026, 11, 27, 5, 30, tzinfo=UTC)),
        ("2026-11-27T05:30+02:00", datetime(2026, 11, 27, 3, 30, tzinfo=UTC)),
        ("9999999d", datetime(1926, 12, 22, 12, tzinfo=UTC)),
    ],
)
def test_times_are_relative_or_absolute(text, moment):
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "0s", "-2h"])
def test_another_time_is_refused(text):
    with pytest.raises(CommandError, match="is not valid") as refused:
        parse_moment(text, NOW)
    assert refused.value.code is Exit.USAGE


@pytest.mark.parametrize(("environment", "printed"), [(None, [True, True]), ("production", [True, False])])
def test_events_are_of_one_environment_or_of_both(environment, printed):
    selection = Selection(frozenset({AlertRaised.TYPE}), environment=environment)
    events = [factories.event(factories.fact(AlertRaised), environment=each) for each in ("production", "staging")]
    assert [selection.includes(event) for event in events] == printed

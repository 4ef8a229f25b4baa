"""`slipway events --type --since --until`, and what `slipway models` lists."""

from datetime import UTC, datetime

import pytest

from clients.cli.commands.models import row_of
from clients.cli.event_selection import Selection
from clients.cli.event_types import short_name, types_matching
from clients.cli.output import CommandError, Exit
from clients.cli.parsing import parse_moment
from contracts.facts import FACTS, AlertRaised
from contracts.routes import CanaryShare, Route
from testbed import factories
from testbed.factories import served
from tests.unit.cli.release_facts import release_of, whole_release

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def test_types_are_named_short_whole_or_by_a_pattern():
    assert types_matching(["rollback.started"]) == {"slipway.rollback.started.v1"}
    assert types_matching(["slipway.rollback.started.v1"]) == {"slipway.rollback.started.v1"}
    assert {short_name(each) for each in types_matching(["alert.*"])} == {
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


def test_a_model_is_listed_with_what_serves_and_its_newest_release():
    route = Route(
        model="support-bot",
        epoch=4,
        active=served(2),
        previous=served(1),
        canary=CanaryShare(served=served(3), weight_ratio=0.1),
    )
    row = row_of("support-bot", route, release_of(whole_release()).progress, True)
    assert (row["canary_ratio"], row["epoch"], row["policy"]) == (0.1, 4, True)
    assert row["release"]["state"] == "promoted"
    aborted = route.model_copy(update={"canary": CanaryShare(served=served(3), weight_ratio=0.0)})
    assert row_of("support-bot", aborted, None, False)["canary"] is None
    assert row_of("new", None, None, True)["active"] is None

"""`slipway endpoints`: what it prints of each Triton, and which name an order takes."""

from datetime import UTC, datetime, timedelta

import pytest

from clients.cli.commands.endpoints import (
    check_name,
    describe_missing_copies,
    describe_row,
    describe_state,
    wait_until_empty,
)
from clients.cli.commands.runtime import describe_json
from clients.cli.output import CommandError
from clients.cli.runtimes import ListedFleet
from contracts.runtimes import FleetRuntime, RunningTarget
from testbed.factories import MODEL, route, served

SERVED = served(7)
ROUTE = route(active=SERVED)
MIB = 2**20
NOW = datetime(2026, 11, 28, 11, tzinfo=UTC)
USED = FleetRuntime(
    name="default",
    endpoint=SERVED.endpoints[0],
    answers=True,
    targets=(RunningTarget(target=SERVED.target, phase="ready"),),
    endpoint_name="triton-2",
    reserved_bytes=300 * MIB,
    memory_budget_bytes=1000 * MIB,
    free_bytes=700 * MIB,
)
FLEET = ListedFleet("main", (USED,))
DRAINED = USED.model_copy(update={"drained": True, "drained_by": "ana", "drain_reason": "New disk."})


def test_a_row_has_what_it_serves_in_which_role_and_its_memory():
    row = describe_row(FLEET, USED, {MODEL: ROUTE})
    assert row[:6] == ("triton-2", SERVED.endpoints[0], "default", "in use", "300 MiB", "700 MiB")
    assert row[6] == f"{SERVED.target} (ready, active)"
    copied = USED.model_copy(update={"targets": (), "copies": (str(SERVED.target),)})
    assert describe_row(FLEET, copied, {})[6] == f"{SERVED.target} (copy)"


@pytest.mark.parametrize(
    ("reported_at", "sentence"),
    [
        (NOW - timedelta(minutes=4), "the server-manager of the fleet main last reported 4 min 0 s ago: "),
        (NOW + timedelta(minutes=1), "the server-manager of the fleet main last reported 0 s ago: "),
        (None, "no server-manager of the fleet main reports: "),
    ],
)
def test_of_a_fleet_whose_server_manager_reports_no_more_a_state_is_the_last_known(reported_at, sentence):
    silent = ListedFleet("main", (USED,), False, reported_at)
    assert describe_row(silent, USED, {})[3] == "last known: in use"
    assert silent.describe_silence(NOW) == f"{sentence}what is listed is what was known last; see `slipway ps`"
    described = describe_json(silent, USED)
    assert (described["fleet"], described["is_current"]) == ("main", False)
    assert described["reported_at"] in (None, "2026-11-28T10:56:00Z", "2026-11-28T11:01:00Z")
    assert FLEET.describe_silence(NOW) is None


def test_a_version_on_fewer_endpoints_than_its_policy_asks_for_is_named():
    assert describe_missing_copies({MODEL: ROUTE}) == []
    asking = {MODEL: ROUTE.model_copy(update={"active": SERVED.model_copy(update={"copies": 2})})}
    (line,) = describe_missing_copies(asking)
    assert line.startswith(f"{SERVED.target} is on 1 of 2 endpoints: ")
    both = SERVED.model_copy(update={"copies": 2, "endpoints": ("a:1", "b:1")})
    assert describe_missing_copies({MODEL: ROUTE.model_copy(update={"active": both})}) == []


@pytest.mark.parametrize(
    ("endpoint", "state"),
    [
        (USED, "in use"),
        (USED.model_copy(update={"answers": False}), "in use, does not answer"),
        (USED.model_copy(update={"answers": False, "fenced": True}), "in use, its agent obeys another server-manager"),
        (DRAINED, "draining by ana: New disk."),
        (DRAINED.model_copy(update={"targets": ()}), "drained by ana: New disk."),
        (DRAINED.model_copy(update={"targets": (), "copies": ("bot.v1.int8",)}), "draining by ana: New disk."),
        (DRAINED.model_copy(update={"targets": (), "answers": False}), "drained by ana: New disk., does not answer"),
    ],
)
def test_a_state_says_who_drained_it_and_whether_it_is_empty(endpoint, state):
    assert describe_state(endpoint) == state


def test_an_order_names_an_endpoint_of_the_fleet():
    check_name("triton-2", [USED])
    check_name("default", [USED.model_copy(update={"endpoint_name": ""})])
    with pytest.raises(CommandError, match="no endpoint triton-3; it has triton-2"):
        check_name("triton-3", [USED])


def reading(*lists):
    """Return what reads one list of the fleet after the other, and the last one again and again."""
    left = list(lists)

    async def read():
        return left.pop(0) if len(left) > 1 else left[0]

    return read


EMPTY = DRAINED.model_copy(update={"targets": ()})
WAITING = DRAINED.model_copy(update={"waits_for": "triton has no memory for it"})


async def test_the_wait_for_an_empty_endpoint_ends_when_it_is_drained_and_holds_nothing(capsys):
    unasked = USED.model_copy(update={"targets": ()})
    leaving = EMPTY.model_copy(update={"copies": ("bot.v1.int8",)})
    await wait_until_empty(reading([unasked], [WAITING], [DRAINED], [leaving], [EMPTY]), "triton-2", 10.0, 0.0)
    assert capsys.readouterr().err.splitlines() == [
        f"it serves {SERVED.target}",
        "waiting: triton has no memory for it",
        "it goes on",
        "bot.v1.int8 moved, and stays until its answers there have ended",
    ]


async def test_an_endpoint_that_left_the_fleet_is_not_called_empty():
    other = EMPTY.model_copy(update={"endpoint_name": "triton"})
    with pytest.raises(CommandError, match="lists no endpoint triton-2 any more"):
        await wait_until_empty(reading([WAITING], [other]), "triton-2", 10.0, 0.0)


async def test_an_endpoint_that_is_not_empty_in_time_is_an_error_with_what_it_holds():
    with pytest.raises(CommandError, match=rf"not empty after 0 s: it has {SERVED.target}. triton has no memory"):
        await wait_until_empty(reading([WAITING]), "triton-2", 0.0, 0.0)

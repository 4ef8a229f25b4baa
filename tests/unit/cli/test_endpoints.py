"""`slipway endpoints`: what it prints of each Triton, and which name an order takes."""

from datetime import UTC, datetime, timedelta

import pytest

from clients.cli.commands.endpoints import (
    check_name,
    describe_json,
    describe_missing_copies,
    describe_row,
    describe_state,
    wait_until_empty,
)
from clients.cli.output import CommandError
from clients.cli.releases.runtimes import describe_silence
from contracts.runtimes import FleetRuntime, RunningTarget
from decisions.serving.runtimes import ListedFleet
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


def test_a_row_has_what_it_serves_in_which_role_and_its_memory(snapshot):
    copied = USED.model_copy(update={"targets": (), "copies": (str(SERVED.target),)})
    silent = ListedFleet("main", (USED,), False, NOW)
    rows = [describe_row(FLEET, USED, {MODEL: ROUTE}), describe_row(FLEET, copied, {}), describe_row(silent, USED, {})]
    assert "\n".join(" | ".join(row) for row in rows) == snapshot


@pytest.mark.parametrize("reported_at", [NOW - timedelta(minutes=4), NOW + timedelta(minutes=1), None])
def test_of_a_fleet_whose_server_manager_reports_no_more_a_state_is_the_last_known(reported_at, snapshot):
    silent = ListedFleet("main", (USED,), False, reported_at)
    assert describe_silence(silent, NOW) == snapshot
    described = describe_json(silent, USED)
    assert (described["fleet"], described["is_current"]) == ("main", False)
    assert (described["reported_at"] is None) == (reported_at is None)
    assert describe_silence(FLEET, NOW) is None


def test_a_version_on_fewer_endpoints_than_its_policy_asks_for_is_named():
    assert describe_missing_copies({MODEL: ROUTE}) == []
    asking = {MODEL: ROUTE.model_copy(update={"active": SERVED.model_copy(update={"copies": 2})})}
    (line,) = describe_missing_copies(asking)
    assert line.startswith(f"{SERVED.target} is on 1 of 2 endpoints: ")
    both = SERVED.model_copy(update={"copies": 2, "endpoints": ("a:1", "b:1")})
    assert describe_missing_copies({MODEL: ROUTE.model_copy(update={"active": both})}) == []


def test_a_state_says_who_drained_it_and_whether_it_is_empty(snapshot):
    endpoints = [
        USED,
        USED.model_copy(update={"answers": False}),
        USED.model_copy(update={"answers": False, "fenced": True}),
        DRAINED,
        DRAINED.model_copy(update={"targets": ()}),
        DRAINED.model_copy(update={"targets": (), "copies": ("bot.v1.int8",)}),
        DRAINED.model_copy(update={"targets": (), "answers": False}),
    ]
    assert "\n".join(map(describe_state, endpoints)) == snapshot


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


async def test_the_wait_for_an_empty_endpoint_ends_when_it_is_drained_and_holds_nothing(capsys, snapshot):
    unasked = USED.model_copy(update={"targets": ()})
    leaving = EMPTY.model_copy(update={"copies": ("bot.v1.int8",)})
    await wait_until_empty(reading([unasked], [WAITING], [DRAINED], [leaving], [EMPTY]), "triton-2", 10.0, 0.0)
    assert capsys.readouterr().err == snapshot


async def test_an_endpoint_that_left_the_fleet_is_not_called_empty():
    other = EMPTY.model_copy(update={"endpoint_name": "triton"})
    with pytest.raises(CommandError, match="lists no endpoint triton-2 any more"):
        await wait_until_empty(reading([WAITING], [other]), "triton-2", 10.0, 0.0)


async def test_an_endpoint_that_is_not_empty_in_time_is_an_error_with_what_it_holds():
    with pytest.raises(CommandError, match=rf"not empty after 0 s: it has {SERVED.target}. triton has no memory"):
        await wait_until_empty(reading([WAITING]), "triton-2", 0.0, 0.0)

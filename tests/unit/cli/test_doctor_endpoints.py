"""What the doctor makes of the endpoints of a fleet."""

from datetime import UTC, datetime, timedelta

from clients.cli.doctor.endpoints import GIB, assess_endpoints
from clients.cli.doctor.findings import as_line
from clients.cli.releases.runtimes import ListedFleet
from contracts.runtimes import FleetRuntime
from testbed.factories import route, served


def endpoint(endpoint_name, address, **more):
    values = {
        "name": "default",
        "endpoint_name": endpoint_name,
        "memory_budget_bytes": 4 * GIB,
        "answers": True,
        **more,
    }
    return FleetRuntime(endpoint=address, **values)


def standing(active, previous):
    """Return the routes of a model whose active and previous target are on these addresses."""
    return {
        "bot": route(active=served(2, endpoints=(active,)), canary=None).model_copy(
            update={"previous": served(1, endpoints=(previous,))}
        )
    }


NOW = datetime(2026, 11, 28, 11, tzinfo=UTC)


def assess(endpoints, routes, **of_fleet):
    return assess_endpoints([ListedFleet("main", tuple(endpoints), **of_fleet)] if endpoints else [], routes, NOW)


FIRST, SECOND = endpoint("default", "a:1", reserved_bytes=GIB), endpoint("triton-2", "b:1")


def test_each_endpoint_is_shown_with_what_it_holds(snapshot):
    finding = assess([FIRST, SECOND], standing("a:1", "b:1"))
    assert finding.state == "ok"
    assert as_line(finding, 9) == snapshot
    assert assess([], {}).state == "skipped"


def test_one_that_does_not_answer_or_is_shared_is_a_warning():
    silent = assess([FIRST, endpoint("triton-2", "b:1", answers=False)], {})
    assert (silent.state, "triton-2 at b:1 does not answer" in silent.detail) == ("warning", True)
    shared = assess([FIRST, SECOND], standing("b:1", "b:1"))
    assert (shared.state, shared.detail.startswith("active and previous share one: bot; ")) == ("warning", True)
    routes = standing("b:1", "b:1")
    copied = routes["bot"].active.model_copy(update={"endpoints": ("a:1", "b:1")})
    assert assess([FIRST, SECOND], {"bot": routes["bot"].model_copy(update={"active": copied})}).state == "warning"
    alone = [FIRST, endpoint("next", "b:1", name="next")]
    assert assess(alone, standing("b:1", "b:1")).state == "ok", "the runtime has no other endpoint"


def test_while_one_of_two_is_drained_it_is_named_and_sharing_the_other_one_is_no_warning():
    drained = FIRST.model_copy(update={"drained": True, "drained_by": "ana"})
    finding = assess([drained, SECOND], standing("b:1", "b:1"))
    assert (finding.state, ", drained by ana" in finding.detail) == ("ok", True)


def test_what_no_server_manager_reports_any_more_is_not_called_good(snapshot):
    finding = assess([FIRST], {}, is_current=False, reported_at=NOW - timedelta(minutes=4, seconds=10))
    assert finding.state == "warning"
    assert as_line(finding, 9) == snapshot
